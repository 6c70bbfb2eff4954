"""Any plain state becomes JSON and tensors and comes back the same."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
import torch

from hftrain.checkpoint.layout import dump_json, load_json
from hftrain.checkpoint.tree import pack, unpack
from hftrain.errors import CheckpointError, UnsafeCheckpointError


class Mode(StrEnum):
    MIN = "min"


def round_trip(tree: Any) -> Any:
    tensors, document = pack(tree)
    json.dumps(document, allow_nan=False)
    return unpack(tensors, load_json(dump_json(document), name="x"))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        True,
        0,
        2**80,
        0.1 + 0.2,
        5e-324,
        -0.0,
        float("inf"),
        "text",
        (),
        (0.9, (0.999, [1, ()])),
        {},
        {"a": {"b": [None, {"c": (1,)}]}},
        {1: "int", (2, 3): "tuple", None: 0},
        {"$tensor": "not a tag", "$": 1},
        Counter({30: 1, 80: 2}),
    ],
    ids=repr,
)
def test_plain_values_come_back_equal_and_of_the_same_type(tree: Any) -> None:
    back = round_trip(tree)
    assert back == tree
    assert type(back) is type(tree)


def test_nan_and_the_sign_of_zero_come_back() -> None:
    back = round_trip({"nan": math.nan, "zero": -0.0, "minus": -math.inf})
    assert math.isnan(back["nan"])
    assert math.copysign(1, back["zero"]) == -1
    assert back["minus"] == -math.inf


def test_tensors_keep_their_dtype_shape_and_bits() -> None:
    tree = {"a": [torch.tensor(3.5, dtype=torch.bfloat16), (torch.zeros(0, 2), torch.arange(3))]}
    back = round_trip(tree)
    for one, other in [(back["a"][0], tree["a"][0]), *zip(back["a"][1], tree["a"][1], strict=True)]:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_tensors_are_keyed_by_their_path_and_never_collide() -> None:
    tensors, _ = pack({"a": {"b": torch.ones(1)}, "a/b": torch.zeros(1)})
    assert list(tensors) == ["a/b", "a/b'"]


def test_numpy_comes_back_as_numpy() -> None:
    back = round_trip({"array": np.arange(4, dtype=np.uint32), "one": np.float32(0.1), "zero": np.array(2)})
    assert back["array"].dtype == np.uint32
    assert back["array"].tolist() == [0, 1, 2, 3]
    assert type(back["one"]) is np.float32
    assert back["one"] == np.float32(0.1)
    assert back["zero"].shape == ()


def test_subclasses_of_plain_types_become_plain() -> None:
    back = round_trip({"mode": Mode.MIN, "float": np.float64(0.5), "ordered": OrderedDict(b=1, a=2)})
    assert back == {"mode": "min", "float": 0.5, "ordered": {"b": 1, "a": 2}}
    assert [type(value) for value in back.values()] == [str, float, dict]
    assert list(back["ordered"]) == ["b", "a"]


@pytest.mark.parametrize("value", [object(), lambda: 0, {1, 2}, b"bytes", 1j, np.array(["text"])], ids=str)
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(CheckpointError, match="'a/0/b'"):
        pack({"a": [{"b": value}]})


def test_a_tree_too_deep_to_be_read_again_is_refused() -> None:
    tree: Any = {1: 0}
    for _ in range(20):
        tree = {1: tree}
    assert round_trip(tree) == tree
    with pytest.raises(CheckpointError, match="nested deeper"):
        pack({1: tree})


@pytest.mark.parametrize(
    "document",
    [
        {"$tensor": "missing"},
        {"$tensor": []},
        {"$unknown": 1},
        {"$tuple": [], "more": 1},
        {"$dict": [1]},
        {"$dict": [[[], 1]]},
        {"$float": "1.0"},
        {"$tuple": None},
        {"$counter": [[1]]},
    ],
    ids=str,
)
def test_a_tag_that_we_do_not_write_is_unsafe(document: Any) -> None:
    with pytest.raises(UnsafeCheckpointError):
        unpack({}, {"a": [document]})
