"""Batches of samples of similar length, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from hftrain.errors import DataError

Lengths = NDArray[Any]

CHUNKS_AT_LEAST = 4
"""The data is cut into at least so many chunks where it is long enough..."""
BATCHES_PER_CHUNK = 50
"""... and into chunks of at most so many batches."""


def length_grouped_order(
    lengths: Lengths, batch_size: int, *, generator: torch.Generator | None = None
) -> NDArray[np.int64]:
    """Return a random order in which neighbours have similar lengths: ``(len(lengths),)`` indices.

    The shuffled samples are cut into chunks of up to 50 batches, and each chunk is sorted, longest first. The longest
    sample of all comes first, so that a batch too large for memory is the first one. The order is that of
    transformers' ``LengthGroupedSampler``: one permutation is drawn.

    Args:
        lengths: of each sample.
        batch_size: samples that are padded together.
        generator: what the permutation is drawn from; None: torch's default.
    """
    num_samples = len(lengths)
    chunk = batch_size * max(min(num_samples // (batch_size * CHUNKS_AT_LEAST), BATCHES_PER_CHUNK), 1)
    shuffled = torch.randperm(num_samples, generator=generator, device="cpu").numpy()
    of_shuffled = lengths[shuffled]
    # Both keys ascend, and equal lengths keep their shuffled order.
    order: NDArray[np.int64] = shuffled[np.lexsort((-of_shuffled, np.arange(num_samples) // chunk))]
    longest = int(np.argmax(lengths[order[::chunk]])) * chunk
    order[0], order[longest] = order[longest], order[0]
    return order


class LengthGroupedSampler(Sampler[int]):
    """Indices in an order in which neighbours have similar lengths, a new one each epoch.

    Args:
        batch_size: samples that are padded together: of one optimizer step.
        dataset: where lengths are read from when they are not given.
        lengths: of each sample.
        model_input_name: key whose value's length is a sample's length; default: "input_ids".
        generator: what the order is drawn from; None: torch's default.

    Raises:
        DataError: neither data set nor lengths, or samples without the key.
    """

    def __init__(
        self,
        batch_size: int,
        dataset: Any = None,
        lengths: Sequence[int] | Lengths | Tensor | None = None,
        model_input_name: str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if dataset is None and lengths is None:
            raise DataError("LengthGroupedSampler was given neither dataset nor lengths. Give one of them.")
        self.batch_size = batch_size
        self.generator = generator
        self.lengths = _as_lengths(lengths) if lengths is not None else lengths_of(dataset, key=model_input_name)

    def regrouped(self, batch_size: int) -> LengthGroupedSampler:
        """Return the same for another batch size, drawing from the same generator."""
        return LengthGroupedSampler(batch_size, lengths=self.lengths, generator=self.generator)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order: list[int] = length_grouped_order(self.lengths, self.batch_size, generator=self.generator).tolist()
        return iter(order)


def lengths_of(dataset: Any, *, column: str | None = None, key: str | None = None) -> Lengths:
    """Return the lengths of the samples: ``(len(dataset),)``.

    Args:
        dataset: a `datasets.Dataset`, whose column is read without making Python objects of it, or a sequence of dicts.
        column: name of a column that holds lengths; used where a `datasets.Dataset` has it.
        key: else the length of this entry of a sample is taken; default: "input_ids".

    Raises:
        DataError: the samples have no such entry, or the column holds no numbers.
    """
    key = key or "input_ids"
    columns: Sequence[str] = getattr(dataset, "column_names", None) or ()
    if column is not None and column in columns:
        return _as_lengths(_numbers(_arrow_column(dataset, column)), name=column)
    if key in columns and (lists := _list_lengths(_arrow_column(dataset, key))) is not None:
        return lists
    return np.fromiter((_length_of(sample, key) for sample in dataset), dtype=np.int64, count=len(dataset))


def _as_lengths(values: Any, *, name: str = "lengths") -> Lengths:
    array = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise DataError(
            f"{name!r} should hold the length of each sample, and it holds an array of shape {array.shape} and type "
            f"{array.dtype} with missing or other values. Set length_column_name to a column of numbers."
        )
    return array if array.dtype.kind == "f" else array.astype(np.int64, copy=False)


def _length_of(sample: Any, key: str) -> int:
    if not isinstance(sample, Mapping) or key not in sample:
        keys = ", ".join(map(str, sample)) if isinstance(sample, Mapping) else None
        found = f"type {type(sample).__name__}" if keys is None else f"keys {keys}"
        raise DataError(
            f"Samples are grouped by the length of their entry {key!r}, and there is a sample with {found}. Name a "
            "column of lengths with length_column_name, or set group_by_length=False."
        )
    return len(sample[key])


# ---- Arrow, recognised by what it can do ---------------------------------------------------------------


def _arrow_column(dataset: Any, name: str) -> tuple[Any, Any]:
    """Return a column as Arrow holds it and the indices of the samples in it, either of them None where unknown."""
    try:
        column, mapping = dataset.data.column(name), dataset._indices
    except AttributeError:
        return dataset[name], None
    # A set that was shuffled or selected from holds its whole table and a column of indices into it; letting Arrow
    # take those rows is four hundred times slower than letting numpy do it.
    return column, None if mapping is None else mapping.column(0).to_numpy()


def _numbers(column: tuple[Any, Any]) -> Any:
    values, indices = column
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values[:])
    return array if indices is None else array[indices]


def _list_lengths(column: tuple[Any, Any]) -> Lengths | None:
    values, indices = column
    chunks = getattr(values, "chunks", None)
    if not chunks or not all(hasattr(chunk, "value_lengths") for chunk in chunks):
        return None
    lengths = np.concatenate([np.asarray(chunk.value_lengths()) for chunk in chunks])
    return _as_lengths(lengths if indices is None else lengths[indices])
