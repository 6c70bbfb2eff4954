"""How a state of any shape becomes JSON and tensors, and comes back the same: a tree with tags."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hftrain.checkpoint.layout import MAX_JSON_DEPTH
from hftrain.errors import CheckpointError, UnsafeCheckpointError


def pack(tree: Any, *, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split a tree into tensors, keyed by their path, and a JSON document that refers to them.

    None, bools, ints, floats, strings, lists and dicts with string keys stay what they are in JSON. What JSON
    lacks is an object of one key: ``{"$tensor": key}``, ``{"$array": key}`` (numpy), ``{"$scalar": key}`` (numpy),
    ``{"$tuple": [...]}``, ``{"$dict": [[key, value], ...]}``, ``{"$counter": [[key, count], ...]}`` and
    ``{"$float": "nan"}``. Nothing is rounded: floats are written so that they read back the same.

    Raises:
        CheckpointError: the tree holds something else; names where.
    """
    packer = _Packer()
    return packer.tensors, packer.pack(tree, prefix)


def unpack(tensors: Mapping[str, Tensor], document: Any) -> Any:
    """The inverse of :func:`pack`. Raises UnsafeCheckpointError for what ``pack`` does not write."""
    if isinstance(document, list):
        return [unpack(tensors, item) for item in document]
    if not isinstance(document, dict):
        return document
    tag = next(iter(document), "")
    if not tag.startswith("$"):
        return {key: unpack(tensors, value) for key, value in document.items()}
    reader = _UNPACKERS.get(tag)
    try:
        if reader is None or len(document) != 1:
            raise ValueError("it is not one of the known tags")
        return reader(tensors, document[tag])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsafeCheckpointError(f"The checkpoint's JSON holds {str(document)[:200]}: {error}.") from error


class _Packer:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def pack(self, node: Any, path: str, depth: int = 0) -> Any:
        if depth > MAX_JSON_DEPTH // 3:  # a tagged dict adds three levels
            raise CheckpointError(f"The state at {path[:100]!r} is nested deeper than {depth - 1} levels.")
        if node is None or isinstance(node, bool | str | int | float):
            return _plain(node)
        if isinstance(node, Tensor):
            return {"$tensor": self._keep(node, path)}
        if type(node).__module__ == "numpy":
            return self._pack_numpy(node, path)
        if type(node) in (list, tuple, torch.Size):
            items = [self.pack(item, _below(path, index), depth + 1) for index, item in enumerate(node)]
            return items if type(node) is list else {"$tuple": items}
        if isinstance(node, Mapping):
            return self._pack_mapping(node, path, depth)
        raise CheckpointError(
            f"The state at {path!r} is a {type(node).__module__}.{type(node).__qualname__}, which JSON and "
            "safetensors cannot hold. Keep numbers, strings, lists, tuples, dicts and tensors in it."
        )

    def _pack_mapping(self, node: Mapping[Any, Any], path: str, depth: int) -> Any:
        if all(isinstance(key, str) and not key.startswith("$") for key in node):
            return {str(key): self.pack(value, _below(path, key), depth + 1) for key, value in node.items()}
        pairs = [
            [self.pack(key, _below(path, "key"), depth + 1), self.pack(value, _below(path, key), depth + 1)]
            for key, value in node.items()
        ]
        # torch's MultiStepLR asks its milestones for what only a Counter has.
        return {"$counter" if isinstance(node, Counter) else "$dict": pairs}

    def _pack_numpy(self, node: Any, path: str) -> Any:
        try:
            tensor = torch.from_numpy(np.array(node))
        except (AttributeError, TypeError) as error:
            raise CheckpointError(f"The state at {path!r} is numpy that torch cannot hold: {error}.") from error
        return {"$scalar" if type(node).__name__ != "ndarray" else "$array": self._keep(tensor, path)}

    def _keep(self, tensor: Tensor, path: str) -> str:
        key = path or "tensor"
        while key in self.tensors:
            key += "'"
        self.tensors[key] = tensor.detach()
        return key


def _plain(node: Any) -> Any:
    """The builtin of a subclass (an Enum of strings, numpy's float64), tagged if JSON has no word for it."""
    if node is None or isinstance(node, bool):
        return node
    if isinstance(node, str):
        return str.__str__(node)
    if isinstance(node, int):
        return int(node)
    return float(node) if math.isfinite(node) else {"$float": repr(float(node))}


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} where a list must be")
    return value


def _pairs(tensors: Mapping[str, Tensor], value: Any) -> dict[Any, Any]:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in _items(value)):
        raise ValueError("pairs of keys and values must be in it")
    return {unpack(tensors, key): unpack(tensors, item) for key, item in value}


_UNPACKERS: dict[str, Callable[[Mapping[str, Tensor], Any], Any]] = {
    "$tensor": lambda tensors, value: tensors[value],
    "$array": lambda tensors, value: tensors[value].numpy(),
    "$scalar": lambda tensors, value: tensors[value].reshape(()).numpy()[()],
    "$tuple": lambda tensors, value: tuple(unpack(tensors, item) for item in _items(value)),
    "$dict": _pairs,
    "$counter": lambda tensors, value: Counter(_pairs(tensors, value)),
    "$float": lambda tensors, value: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[value],
}
