"""Two checkpoints are the same bit for bit, or every tensor, value and file that differs is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain.checkpoint.compare import Comparison, PartDifference, compare
from hftrain.checkpoint.contents import (
    Part,
    document_part,
    files_part,
    model_part,
    optimizer_part,
    parameter_names,
    rng_part,
    tree_part,
)
from hftrain.checkpoint.export import export_to_transformers
from hftrain.hardware.seeding import rng_state
from tests.checkpoint.kit import manager


def compared(folder: Path, one: list[Part], other: list[Part], **settings: Any) -> Comparison:
    """Save both and compare."""
    state = document_part("trainer_state", {"global_step": 1})
    paths = [
        manager(folder / name, **settings).save(1, [*parts, state], epoch=0.0, samples=0)
        for name, parts in (("a", one), ("b", other))
    ]
    return compare(*paths)


def part_of(found: Comparison, name: str) -> PartDifference:
    return next(part for part in found.parts if part.name == name)


def tensors(folder: Path, one: Tensor, other: Tensor) -> list[tuple[int, float | None]]:
    """How many numbers of two tensors differ, and by how much; nothing if they are the same."""
    found = compared(folder, [model_part({"w": one})], [model_part({"w": other})])
    return [(tensor.num_changed, tensor.largest) for tensor in part_of(found, "model").tensors]


def test_equal_checkpoints_are_the_same_whoever_wrote_them_and_when(tmp_path: Path) -> None:
    weights = [model_part({"w": torch.rand(3), "empty": torch.zeros(0, 2)})]
    found = compared(tmp_path, weights, weights)
    assert found.is_same
    assert found.facts["created"][0] != found.facts["created"][1]


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0], [(1, 0.5)]),
        ([NAN, 1.0], [NAN, 1.0], []),
        ([0.0], [-0.0], [(1, 0.0)]),
        ([math.inf, 1.0], [math.inf, 2.0], [(1, 1.0)]),
        ([math.inf], [-math.inf], [(1, math.inf)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_tensors_are_the_same_by_their_bits(
    one: list[float], other: list[float], expected: list[Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    assert tensors(tmp_path, torch.tensor(one, dtype=dtype), torch.tensor(other, dtype=dtype)) == expected


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float8_e4m3fn, torch.complex64]
)
def test_every_dtype_is_compared(dtype: torch.dtype, tmp_path: Path) -> None:
    one, other = torch.tensor([0, 1]).to(dtype), torch.tensor([1, 1]).to(dtype)
    assert tensors(tmp_path, one, other) == [(1, 1.0)]


def test_a_number_that_became_nan_is_the_largest_difference(tmp_path: Path) -> None:
    ((num_changed, largest),) = tensors(tmp_path, torch.tensor([1.0, 5.0]), torch.tensor([NAN, 1.0]))
    assert num_changed == 2
    assert largest is not None
    assert math.isnan(largest)


def test_a_difference_behind_the_first_piece_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftrain.checkpoint.compare._CHUNK", 4)
    assert tensors(tmp_path, torch.zeros(3, 3), torch.eye(3) * 2) == [(3, 2.0)]


def test_other_shapes_dtypes_and_names_come_first_and_then_the_largest(tmp_path: Path) -> None:
    one = {"a": torch.zeros(1), "b": torch.zeros(2), "c": torch.zeros(2, 3), "d": torch.zeros(1)}
    other = {"a": torch.ones(1), "b": torch.full((2,), 7.0), "c": torch.zeros(6), "e": torch.zeros(1).half()}
    found = part_of(compared(tmp_path, [model_part(one)], [model_part(other)]), "model")
    assert [(it.name, it.a, it.b) for it in found.tensors[:3]] == [
        ("c", "float32[2, 3]", "float32[6]"),
        ("d", "float32[1]", "(not there)"),
        ("e", "(not there)", "float16[1]"),
    ]
    assert [it.name for it in found.tensors[3:]] == ["b", "a"]


def test_shards_make_one_model(tmp_path: Path) -> None:
    weights = {name: torch.rand(4) for name in "abc"}
    changed = {**weights, "c": weights["c"] + 1}
    found = part_of(compared(tmp_path, [model_part(weights)], [model_part(changed)], max_shard_size=16), "model")
    assert (found.num_tensors, [it.name for it in found.tensors]) == (3, ["c"])


def test_values_are_named_by_their_path_and_kinds_of_numbers_are_told_apart(tmp_path: Path) -> None:
    one = {"lr": [0.1, {"warm": 1}], "same": None, "old": {}, "x": True}
    other = {"lr": [0.2, {"warm": 1.0}], "same": None, "x": 1}
    found = part_of(compared(tmp_path, [document_part("run", one)], [document_part("run", other)]), "run")
    assert [(it.path, it.a, it.b) for it in found.values] == [
        ("lr/0", "0.1", "0.2"),
        ("lr/1/warm", "1", "1.0"),
        ("old", "{}", "(not there)"),
        ("x", "True", "1"),
    ]


def test_a_long_list_is_one_value(tmp_path: Path) -> None:
    one, other = list(range(30)), [*range(20), 99]
    found = part_of(compared(tmp_path, [document_part("run", one)], [document_part("run", other)]), "run")
    (value,) = found.values
    assert (value.a, value.b) == ("30 items, other from item 20 on", "21 items, other from item 20 on")


def test_a_tensor_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    one, other = tree_part("scheduler", {"t": torch.ones(1), "n": 1}), tree_part("scheduler", {"n": 1})
    found = part_of(compared(tmp_path, [one], [other]), "scheduler")
    assert [it.name for it in found.tensors] == ["t"]
    assert not found.values


def test_a_part_and_a_file_that_one_of_them_lacks_are_differences(tmp_path: Path) -> None:
    found = compared(tmp_path, [rng_part(rng_state()), files_part("f", {"vocab.txt": b"a"})], [])
    (value,) = part_of(found, "rng-0").values
    assert (value.a, value.b) == ("(there)", "(not there)")
    (file,) = part_of(found, "other files").values
    assert file.path == "vocab.txt"
    assert file.a.startswith("1 bytes, sha256 ca978112ca1b")


def test_an_export_is_the_same_model_and_the_same_optimizer(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.5}])
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    saved = [model_part(model.state_dict()), optimizer_part(optimizer, parameter_names(model)), rng_part(rng_state())]
    state = document_part("trainer_state", {"global_step": 1})
    path = manager(tmp_path).save(1, [*saved, state], epoch=0.0, samples=0)
    export_to_transformers(path, str(tmp_path / "exported"))
    found = compare(path, str(tmp_path / "exported"))
    assert {part.name for part in found.parts} == {"model", "optimizer", "rng-0", "trainer_state"}
    assert found.is_same
    assert part_of(found, "optimizer").num_tensors == 6


def test_the_references_pickled_weights_are_compared_too(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
        torch.save({"w": torch.tensor([0.0, value])}, tmp_path / name / "pytorch_model.bin")
    (tensor,) = part_of(compare(str(tmp_path / "a"), str(tmp_path / "b")), "model").tensors
    assert (tensor.a, tensor.num_changed, tensor.largest) == ("float32[2]", 1, 2.0)
