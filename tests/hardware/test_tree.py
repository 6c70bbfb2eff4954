from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch

from hftrain.hardware.tree import map_tree

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Frozen:
    x: Any
    name: str = "n"


ONE = torch.ones(1)
CONTAINERS = [
    {"x": ONE, "n": 1},
    [ONE, "text"],
    (ONE, None),
    Point(ONE, 2),
    Frozen(ONE),
    OrderedDict(x=ONE),
    UserDict(x=ONE),
    MappingProxyType({"x": ONE}),
    {"deep": [({"x": ONE},)]},
]


def double(leaf: Any) -> Any:
    return leaf * 2 if isinstance(leaf, torch.Tensor) else leaf


@pytest.mark.parametrize("tree", CONTAINERS, ids=lambda tree: type(tree).__name__)
def test_containers_keep_their_type_and_the_original_is_not_changed(tree: Any) -> None:
    mapped = map_tree(tree, double)
    assert type(mapped) is type(tree)
    assert "2." in str(mapped if not isinstance(mapped, UserDict) else dict(mapped))
    assert ONE.tolist() == [1.0]


@pytest.mark.parametrize("tree", CONTAINERS, ids=lambda tree: type(tree).__name__)
def test_the_same_object_comes_back_when_nothing_changed(tree: Any) -> None:
    assert map_tree(tree, lambda leaf: leaf) is tree


def test_only_changed_branches_are_rebuilt() -> None:
    tree = {"kept": [1, 2], "changed": [ONE]}
    mapped = map_tree(tree, double)
    assert mapped["kept"] is tree["kept"]
    assert mapped["changed"] is not tree["changed"]


def test_leaves_are_everything_but_containers_and_none() -> None:
    seen: list[Any] = []
    map_tree({"a": "text", "b": [1, None], "c": ONE}, lambda leaf: seen.append(leaf) or leaf)
    assert seen == ["text", 1, ONE]


def test_a_container_that_is_declared_a_leaf_is_not_entered() -> None:
    batch = UserDict(x=ONE)
    assert map_tree([batch], lambda leaf: "leaf", is_leaf=lambda tree: isinstance(tree, UserDict)) == ["leaf"]
