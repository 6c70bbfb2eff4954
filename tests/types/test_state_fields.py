"""trainer_state.json from a stranger: a field is what it must be, or the file is refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from hftrain.errors import CheckpointError
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState
from hftrain.types.state_fields import FIELDS, wrong_fields

WRONG: list[tuple[str, Any]] = [
    ("global_step", math.nan),
    ("global_step", -1),
    ("global_step", 2**63),
    ("global_step", True),
    ("global_step", "3"),
    ("global_step", None),
    ("global_step", 10**400),
    ("max_steps", -2),
    ("max_steps", math.nan),
    ("epoch", math.inf),
    ("epoch", "0.5"),
    ("total_flos", math.nan),
    ("num_input_tokens_seen", []),
    ("train_batch_size", 0.5),
    ("save_steps", -1),
    ("log_history", {}),
    ("log_history", [1]),
    ("best_metric", "1"),
    ("best_metric", 10**400),
    ("best_global_step", -3),
    ("best_model_checkpoint", ["a"]),
    ("best_model_checkpoint", "x" * 10_001),
    ("trial_params", "x"),
    ("stateful_callbacks", []),
    ("stateful_callbacks", {"A": 1}),
    ("stateful_callbacks", {"A": [{"args": {}, "attributes": []}]}),
    ("is_world_process_zero", 1),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_field_that_is_something_else_is_named_with_its_value(name: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"global_step": 1} | {name: value}))
    with pytest.raises(CheckpointError, match=f"{name}=.*which is not") as caught:
        TrainerState.load_from_json(path)
    assert len(str(caught.value)) < 1000


def test_what_we_save_is_what_is_read() -> None:
    state = TrainerState(epoch=0.5, log_history=[{"loss": math.nan}], best_metric=math.nan, total_flos=1e18)
    state.stateful_callbacks = {"TrainerControl": TrainerControl().state(), "Two": [TrainerControl().state()] * 2}
    assert wrong_fields(json.loads(json.dumps(asdict(state)))) == []
    assert wrong_fields(asdict(TrainerState())) == []


def test_every_field_has_its_rule() -> None:
    assert list(FIELDS) == [field.name for field in fields(TrainerState)]


def test_a_state_that_only_its_class_understands_is_left_to_it() -> None:
    assert wrong_fields({"stateful_callbacks": {"Mine": {"anything": 1}}}) == []


def test_unknown_fields_are_left_alone() -> None:
    assert wrong_fields({"of_a_newer_version": object()}) == []
