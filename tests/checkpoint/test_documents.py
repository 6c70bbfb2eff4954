"""The JSON of a checkpoint from a stranger: a known field is what it must be, or the checkpoint is refused."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain.checkpoint.documents import neighbour
from hftrain.checkpoint.reader import open_checkpoint
from hftrain.errors import TornCheckpointError
from tests.checkpoint.hostile import exchange, whole_checkpoint

LOSSES = {"window": [0.5, "nan"], "total": 1.0, "steps_closed": 2}
GENERATOR = base64.b64encode(torch.Generator().get_state().numpy().tobytes()).decode()

WRONG: list[tuple[str, str, Any]] = [
    ("trainer_state", "global_step", math.nan),
    ("trainer_state", "train_batch_size", 0),
    ("data", "position", []),
    ("data", "position", {"epoch": math.nan}),
    ("data", "position", {"samples": -1}),
    ("data", "position", {"epoch": 0, "batches": -1, "samples": 0}),
    ("data", "position", {"epoch": 0, "batches": 0, "samples": 0, "more": 0}),
    ("data", "position", {"epoch": 1}),
    ("data", "unfinished", {"done": -1}),
    ("data", "unfinished", {"done": math.nan}),
    ("data", "unfinished", []),
    ("data", "batch_size", 0),
    ("data", "world_size", "2"),
    ("data", "accumulation_steps", math.nan),
    ("data", "seed", -1),
    ("data", "windows", {}),
    ("data", "windows", [1]),
    ("data", "windows", [{"losses": {}, "meters": {}}]),
    ("data", "windows", [{"losses": LOSSES | {"window": ["no number"]}, "meters": {}}]),
    ("data", "windows", [{"losses": LOSSES | {"total": 10**400}, "meters": {}}]),
    ("data", "windows", [{"losses": LOSSES | {"steps_closed": 0.5}, "meters": {}}]),
    ("data", "windows", [{"losses": LOSSES, "meters": {"a": [[1.0], []]}}]),
    ("data", "windows", [{"losses": LOSSES, "meters": {"a": [[1.0]]}}]),
    ("data", "order", []),
    ("data", "order", {"drawn_from": "!"}),
    ("data", "order", {"drawn_from": base64.b64encode(b"\xff" * 5056).decode()}),
    ("data", "order", {"drawn_from": GENERATOR, "group_size": 1 << 40}),
    ("data", "order", {"drawn_from": GENERATOR, "by_own": 1}),
    ("data", "order", {"generator": GENERATOR}),
    ("data", "length", []),
    ("data", "length", {"extra_steps": 0.5}),
    ("data", "length", {"extra_epochs": 1 << 64}),
    ("data", "length", {"schedule": [[0, 0]]}),
    ("data", "length", {"schedule": [[0, 0], [5, 3], [5, 4]]}),
    ("data", "length", {"schedule": [[0, 0], [5, 3], [6, 3]]}),
    ("data", "length", {"schedule": [[0, 0], [5, float("inf")]]}),
    ("data", "length", {"schedule": [[1, 1], [5, 3]]}),
    ("data", "num_samples", -1),
    ("run", "run_id", "../../x"),
    ("run", "run_id", None),
    ("run", "run_name", 3),
    ("task", "class", None),
    ("task", "arguments", []),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_checkpoint(tmp_path_factory.mktemp("out"))


@pytest.mark.parametrize(("name", "field", "value"), WRONG)
def test_a_field_that_is_something_else_is_named(checkpoint: Path, name: str, field: str, value: Any) -> None:
    path = checkpoint / f"{name}.json"
    whole = path.read_bytes()
    exchange(checkpoint, path.name, json.dumps(json.loads(whole) | {field: value}).encode())
    try:
        with pytest.raises(TornCheckpointError, match=rf"{name}\.json has .*{field}"):
            open_checkpoint(str(checkpoint)).fields(name)
    finally:
        exchange(checkpoint, path.name, whole)


def test_a_state_that_does_not_say_its_step_is_none(checkpoint: Path) -> None:
    whole = (checkpoint / "trainer_state.json").read_bytes()
    exchange(checkpoint, "trainer_state.json", b'{"epoch": 1.0}')
    try:
        with pytest.raises(
            TornCheckpointError, match=r"trainer_state\.json has global_step='None', which is not a count"
        ):
            open_checkpoint(str(checkpoint)).fields("trainer_state")
    finally:
        exchange(checkpoint, "trainer_state.json", whole)


def test_what_we_write_is_what_is_read(checkpoint: Path) -> None:
    reader = open_checkpoint(str(checkpoint))
    for name in ("trainer_state", "data", "run", "task", "training_args"):
        assert reader.fields(name)


@pytest.mark.parametrize("order", [None, {"drawn_from": GENERATOR, "generator": GENERATOR, "group_size": 8}])
def test_an_order_that_a_run_writes_is_read(checkpoint: Path, order: Any) -> None:
    data = json.loads((checkpoint / "data.json").read_bytes())
    exchange(checkpoint, "data.json", json.dumps(data | {"order": order, "of_later_versions": [1]}).encode())
    assert open_checkpoint(str(checkpoint)).fields("data")["order"] == order


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (None, None),
        ("{out}/checkpoint-2", "{out}/checkpoint-2"),
        ("/elsewhere/checkpoint-2", "{out}/checkpoint-2"),
        ("s3://elsewhere/checkpoint-2", "{out}/checkpoint-2"),
        ("{out}/../private", None),
        ("https://elsewhere/model", None),
    ],
)
def test_the_best_checkpoint_that_a_state_names_is_a_neighbour(named: Any, expected: Any, tmp_path: Path) -> None:
    named, expected = (None if text is None else text.format(out=tmp_path) for text in (named, expected))
    assert neighbour(named, f"{tmp_path}/checkpoint-3") == expected
