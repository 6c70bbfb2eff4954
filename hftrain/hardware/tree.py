"""Walks over nested batches: dicts, lists, tuples, named tuples and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def map_tree(tree: Any, leaf: Callable[[Any], Any], *, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """Apply ``leaf`` to everything that is no container, and rebuild only the containers in which something changed.

    The same object comes back when nothing changed, so a batch that is in place already costs no copy.

    Args:
        tree: the batch; containers keep their type (named tuples, ``dict`` subclasses, frozen dataclasses too).
        leaf: called with everything else but None: tensors, numbers, strings, unknown objects.
        is_leaf: asked about containers that are not exactly dict, list or tuple; True stops the walk there.
    """
    kind = type(tree)
    if kind is Tensor:
        return leaf(tree)
    if kind is dict:
        return _same_or(tree, {key: map_tree(value, leaf, is_leaf=is_leaf) for key, value in tree.items()})
    if kind is list or kind is tuple:
        items = [map_tree(value, leaf, is_leaf=is_leaf) for value in tree]
        return tree if _all_same(items, tree) else kind(items)
    if tree is None:
        return tree
    if is_leaf is not None and is_leaf(tree):
        return leaf(tree)
    return _map_uncommon(tree, leaf, is_leaf)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what a nest of mappings, lists, tuples and dataclasses holds, in order."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from leaves(value)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    else:
        yield tree


def mapping_like(old: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """Return a mapping of the type of ``old``, which has the same keys, with other values."""
    if type(old) is dict:
        return entries
    if not isinstance(old, MutableMapping):
        return type(old)(entries)  # type: ignore[call-arg]
    rebuilt = copy.copy(old)
    for key, value in entries.items():
        rebuilt[key] = value
    return rebuilt


def sequence_like(old: Any, items: Iterable[Any]) -> Any:
    """Return a list, tuple or named tuple of the type of ``old`` with other items."""
    return type(old)(*items) if hasattr(old, "_fields") else type(old)(items)


def _map_uncommon(tree: Any, leaf: Callable[[Any], Any], is_leaf: Callable[[Any], bool] | None) -> Any:
    if isinstance(tree, Mapping):
        changed = {key: map_tree(value, leaf, is_leaf=is_leaf) for key, value in tree.items()}
        if all(value is tree[key] for key, value in changed.items()):
            return tree
        return mapping_like(tree, changed)
    if isinstance(tree, (list, tuple)):
        items = [map_tree(value, leaf, is_leaf=is_leaf) for value in tree]
        if _all_same(items, tree):
            return tree
        return sequence_like(tree, items)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return _map_dataclass(tree, leaf, is_leaf)
    return leaf(tree)


def _map_dataclass(tree: Any, leaf: Callable[[Any], Any], is_leaf: Callable[[Any], bool] | None) -> Any:
    old = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    new = {name: map_tree(value, leaf, is_leaf=is_leaf) for name, value in old.items()}
    if all(new[name] is old[name] for name in old):
        return tree
    rebuilt = copy.copy(tree)
    for name, value in new.items():
        object.__setattr__(rebuilt, name, value)  # frozen ones too; __post_init__ must not run twice
    return rebuilt


def _same_or(old: dict[Any, Any], new: dict[Any, Any]) -> dict[Any, Any]:
    return old if all(new[key] is value for key, value in old.items()) else new


def _all_same(new: list[Any], old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))
