"""A checkpoint with any file changed in any way is read, or refused with a CheckpointError: never anything else.

FUZZ=20 in the environment tries twenty times as many examples, other ones each time.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import string
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from hftrain.checkpoint.catalog import inspect_folder, scan
from hftrain.checkpoint.contents import (
    load_optimizer,
    load_scheduler,
    parameter_names,
    rng_of,
    scaler_state,
    tree_of,
    tree_part,
)
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.formats import read_safetensors
from hftrain.checkpoint.layout import Manifest, checked_path, is_plain_path, load_json
from hftrain.checkpoint.pickled import load_pickled
from hftrain.checkpoint.storage import LocalStorage
from hftrain.checkpoint.tree import pack, unpack
from hftrain.errors import CheckpointError, UnsafeCheckpointError
from tests.checkpoint.hostile import archive, exchange, pickled, safetensors, whole_checkpoint

FUZZ = int(os.environ.get("FUZZ", "1"))

# Nothing is shrunk: a failing example is small enough to read, and shrinking takes the time of many more.
SOME = settings(
    max_examples=60 * FUZZ,
    deadline=None,
    derandomize=FUZZ == 1,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(SOME, max_examples=300 * FUZZ)

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**48, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400]),
    st.floats(),
    st.booleans(),
)
NAMES = [
    "step",
    "files",
    "bytes",
    "sha256",
    "params",
    "state",
    "$tensor",
    "$tuple",
    "$dict",
    "$float",
    "dtype",
    "shape",
]
TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from([*NAMES, "nan", "../x", "/etc/passwd", "F32", "\ud800", "\x1b[2J"])
)
JSON = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def is_refused_or_read(action: Callable[[], Any]) -> bool:
    """Whether it was read. Anything but a CheckpointError, of a length that can be shown, goes on to the test."""
    try:
        action()
    except CheckpointError as error:
        assert 0 < len(str(error)) < 5000  # noqa: PT017
        return False
    return True


# ---- one part of the reading each -------------------------------------------------------------------


@MANY
@given(st.one_of(st.text(max_size=30), st.text(string.printable + "/.\\:", max_size=12)))
def test_a_path_that_is_accepted_stays_inside_its_folder_on_every_system(path: str) -> None:
    if not is_plain_path(path):
        with pytest.raises(UnsafeCheckpointError):
            checked_path(path)
        return
    for kind in (PurePosixPath, PureWindowsPath):
        assert not kind(path).is_absolute()
        assert not kind(path).drive
        assert ".." not in kind(path).parts
    path.encode()


@MANY
@given(st.one_of(st.binary(max_size=60), JSON.map(lambda tree: json.dumps(tree).encode())))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    is_refused_or_read(lambda: load_json(data, name="x.json"))
    is_refused_or_read(lambda: Manifest.from_json(data))


def manifest(**changes: Any) -> bytes:
    file = {"bytes": 1, "sha256": "0" * 64}
    document = {"format": 1, "run_id": "run", "step": 1, "epoch": 0.5, "samples": 1, "world_size": 1}
    document |= {"created": "2026-01-02T03:04:05.000006Z", "versions": {}, "files": {"a": file}}
    return json.dumps(document | changes).encode()


@MANY
@given(st.sampled_from(sorted(json.loads(manifest()))), JSON)
def test_any_field_of_a_manifest_is_taken_or_refused(field: str, value: Any) -> None:
    data = manifest(**{field: value})
    if is_refused_or_read(lambda: Manifest.from_json(data)):
        back = Manifest.from_json(data)
        assert Manifest.from_json(back.to_json()) == back


@MANY
@given(
    st.dictionaries(
        TEXTS,
        st.one_of(
            JSON,
            st.fixed_dictionaries(
                {
                    "dtype": st.sampled_from(["F32", "U8", "BOOL", "I64", "F8_E4M3", "X"]),
                    "shape": st.lists(NUMBERS, max_size=3),
                    "data_offsets": st.lists(NUMBERS, max_size=3),
                }
            ),
        ),
        max_size=3,
    ),
    st.binary(max_size=24),
)
def test_any_header_is_read_within_its_bytes_or_refused(header: Any, data: bytes) -> None:
    whole = safetensors(header, data)

    def read() -> None:
        tensors, _ = read_safetensors(io.BytesIO(whole), len(whole), name="x.safetensors")
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= len(data)

    is_refused_or_read(read)


@MANY
@given(JSON)
def test_any_json_is_a_tree_or_refused(document: Any) -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones((), dtype=torch.bfloat16)}
    is_refused_or_read(lambda: unpack(tensors, document))


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=5), st.sampled_from(["$tensor", "$"])), inner, max_size=3),
        st.dictionaries(st.integers(), inner, max_size=3),
    ),
    max_leaves=10,
)


@MANY
@given(TREES)
def test_every_tree_of_plain_data_comes_back(tree: Any) -> None:
    tensors, document = pack(tree)
    assert unpack(tensors, load_json(json.dumps(document).encode(), name="x")) == tree


OPCODES = b"(.0]}l)tsuebRQc\x85\x86\x87\x88\x89NKMJGXUq\x81h\x8a"


@MANY
@given(st.lists(st.one_of(st.sampled_from([bytes([code]) for code in OPCODES]), st.binary(max_size=3)), max_size=25))
def test_any_pickle_is_read_or_refused(pieces: list[bytes]) -> None:
    data = archive(pickled(*pieces))
    is_refused_or_read(lambda: load_pickled(io.BytesIO(data), len(data), name="x.pt"))


# ---- the states that objects take -------------------------------------------------------------------


@SOME
@given(JSON, st.sampled_from(["state", "param_groups", "more", ""]))
def test_any_state_is_taken_by_an_optimizer_or_refused(tree: Any, field: str) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    saved: Any = {"state": {}, "param_groups": [{"params": ["weight", "bias"], "lr": 0.1}], "more": {}}
    saved = saved | {field: tree} if field else tree
    if is_refused_or_read(lambda: load_optimizer(tree_part("optimizer", saved), optimizer, parameter_names(model))):
        optimizer.step()


@SOME
@given(st.sampled_from(["lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "capturable", "initial_lr"]), JSON)
def test_any_setting_of_a_group_is_taken_or_refused(name: str, value: Any) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    saved = {"state": {}, "param_groups": [{"params": ["weight", "bias"], name: value}], "more": {}}
    is_refused_or_read(lambda: load_optimizer(tree_part("optimizer", saved), optimizer, parameter_names(model)))


@SOME
@given(st.sampled_from(["last_epoch", "_step_count", "base_lrs", "lr_lambdas", "_last_lr", "step", ""]), JSON)
def test_any_state_is_taken_by_a_schedule_or_refused(field: str, value: Any) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    state = scheduler.state_dict() | {field: value} if field else value
    is_refused_or_read(lambda: load_scheduler(tree_part("scheduler", state), scheduler))


@SOME
@given(JSON)
def test_any_random_state_and_loss_scale_is_one_or_refused(tree: Any) -> None:
    is_refused_or_read(lambda: rng_of(tree_part("rng", tree)))
    is_refused_or_read(lambda: scaler_state(tree_part("scaler", tree)))


# ---- a whole checkpoint -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_checkpoint(tmp_path_factory.mktemp("original"))


def read_everything(folder: Path) -> None:
    """What a resume and the commands read, each for itself: one refusal does not spare the others."""
    scan(LocalStorage(), str(folder.parent))
    inspect_folder(LocalStorage(), str(folder))
    reads: list[Callable[[Any], Any]] = [
        lambda reader: reader.step,
        lambda reader: reader.model(),
        lambda reader: tree_of(reader.part("optimizer")),
        lambda reader: tree_of(reader.part("scheduler")),
        lambda reader: scaler_state(reader.part("scaler")),
        lambda reader: rng_of(reader.part("rng", rank=0)),
        *(lambda reader, name=name: reader.fields(name) for name in ("trainer_state", "data", "run", "task")),
    ]
    for read in reads:
        is_refused_or_read(lambda read=read: read(open_any(str(folder))))  # type: ignore[misc]


FILES = ["MANIFEST.json", "data.json", "model.safetensors", "optimizer.json", "optimizer.safetensors", "rng-0.json"]
FILES += ["rng-0.safetensors", "run.json", "scaler.json", "scheduler.json", "task.json", "trainer_state.json"]


@settings(SOME, max_examples=120 * FUZZ)
@given(st.sampled_from(FILES), st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 6), st.booleans())
def test_a_file_changed_anywhere_is_read_or_refused(
    original: Path, name: str, where: int, new: bytes, num_removed: int, is_summed: bool
) -> None:
    whole = (original / name).read_bytes()
    where %= len(whole) + 1
    changed = whole[:where] + new + whole[where + num_removed :]
    folder = original.parent / "copies/checkpoint-3"
    shutil.copytree(original, folder)
    try:
        if name == "MANIFEST.json" or not is_summed:
            (folder / name).write_bytes(changed)
        else:
            exchange(folder, name, changed)
        read_everything(folder)
        if not is_summed and changed != whole and name != "MANIFEST.json":
            assert not is_refused_or_read(lambda: open_any(str(folder)))
    finally:
        shutil.rmtree(folder)


@settings(SOME, max_examples=120 * FUZZ)
@given(st.sampled_from([name for name in FILES if name.endswith(".json")]), JSON, st.data())
def test_any_value_anywhere_in_the_json_is_read_or_refused(original: Path, name: str, value: Any, data: Any) -> None:
    document = json.loads((original / name).read_bytes())
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys)) if keys else None
        if key is None or not isinstance(node[key], dict | list) or data.draw(st.booleans()):
            break
        node = node[key]
    if key is not None:
        node[key] = value
    folder = original.parent / "copies/checkpoint-3"
    shutil.copytree(original, folder)
    try:
        changed = json.dumps(document).encode()
        (folder / name).write_bytes(changed) if name == "MANIFEST.json" else exchange(folder, name, changed)
        read_everything(folder)
    finally:
        shutil.rmtree(folder)
