"""Reading a batch of any nesting: how many samples, what is in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

DESCRIBED_ENTRIES = 8


def leaves(batch: Any) -> Iterator[Any]:
    """Yield what a nest of mappings, lists, tuples and dataclasses holds, in order."""
    if isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from leaves(value)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from leaves(getattr(batch, field.name))
    else:
        yield batch


def batch_size(batch: Any) -> int:
    """Return the number of samples: the first dimension of the first tensor that has one, else 1."""
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            return leaf.shape[0]
    return 1


def describe_batch(batch: Any) -> str:
    """Name types, keys and shapes, for an error message."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping):
        entries = [f"{key!r}: {describe_batch(value)}" for key, value in batch.items()]
        return "{" + ", ".join(_shortened(entries)) + "}"
    if isinstance(batch, (list, tuple)):
        brackets = "[]" if isinstance(batch, list) else "()"
        return brackets[0] + ", ".join(_shortened([describe_batch(value) for value in batch])) + brackets[1]
    return type(batch).__name__


def _shortened(entries: list[str]) -> list[str]:
    rest = len(entries) - DESCRIBED_ENTRIES
    return [*entries[:DESCRIBED_ENTRIES], f"and {rest} more"] if rest > 0 else entries
