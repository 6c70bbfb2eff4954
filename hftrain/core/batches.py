"""Reading a batch of any nesting: how many samples, what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hftrain.errors import HftrainError, TaskError
from hftrain.hardware.tree import leaves

DESCRIBED_ENTRIES = 8


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


@contextmanager
def first_batch_errors(step: str, batch: Any) -> Iterator[None]:
    """Turn what a step raises on its first batch into a `TaskError` that describes the batch."""
    try:
        yield
    except HftrainError:
        raise
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise TaskError(
            f"{step} failed on the first batch, which is {describe_batch(batch)}: {type(error).__name__}: {error}. "
            "Make the data set (or collate_fn) return what the step takes."
        ) from error


def _shortened(entries: list[str]) -> list[str]:
    rest = len(entries) - DESCRIBED_ENTRIES
    return [*entries[:DESCRIBED_ENTRIES], f"and {rest} more"] if rest > 0 else entries
