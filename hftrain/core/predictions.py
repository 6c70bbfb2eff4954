"""Outputs of a whole data set, held once: host arrays that are taken in advance and grow in place."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hftrain.core.ports import Engine
from hftrain.errors import DataError
from hftrain.types.outputs import IGNORED_LABEL

GROWTH = 1.08
# A copy between overlapping places goes through as much temporary memory, so it is done in pieces.
PIECE_ITEMS = 1 << 20

Array = NDArray[Any]


class RowBuffer:
    """Batches of one output, joined along dimension 0 in memory that is taken once.

    Dimension 1 may differ between batches: the result is as wide as the widest, padded with -100. When a wider batch
    comes, the rows so far move apart within the same memory, which is only extended: neither a second copy nor a list
    of batches is held. Memory that no row has been written to yet is reserved, not used.

    Args:
        like: the first batch, ``(rows, columns, ...)`` or ``(rows,)``; says what all batches look like.
        num_rows: rows to expect; None when unknown. More may come.
    """

    def __init__(self, like: Array, *, num_rows: int | None = None) -> None:
        self._is_flat = like.ndim == 1
        self._inner = like.shape[2:]
        self._item = math.prod(self._inner)
        self._columns = self._width = 1 if self._is_flat else like.shape[1]
        self._capacity = max(num_rows or 0, len(like))
        self._rows = 0
        self._widths: list[tuple[int, int, int]] = []  # first row, end row, columns: one a batch
        self._memory: Array = np.empty(self._capacity * self._columns * self._item, dtype=like.dtype)

    def add(self, batch: Array) -> None:
        """Append the rows of ``batch``.

        Raises:
            DataError: another number of dimensions, or another size than the first batch's behind dimension 1.
        """
        if (batch.ndim == 1) is not self._is_flat or batch.shape[2:] != self._inner:
            first = (self._width,) if not self._is_flat else ()
            raise DataError(
                f"A batch of shape {batch.shape} cannot be joined to batches of shape (rows, "
                f"{', '.join(map(str, (*first, *self._inner)))}): only dimensions 0 and 1 may differ between batches. "
                "Pad the others to one size, or set eval_do_concat_batches=False."
            )
        rows, width = len(batch), 1 if self._is_flat else batch.shape[1]
        if batch.dtype != self._memory.dtype:
            self._memory = self._memory.astype(np.result_type(self._memory.dtype, batch.dtype))
        if width > self._columns:
            self._widen(width)
        if self._rows + rows > self._capacity:
            self._resize(max(self._rows + rows, math.ceil(self._capacity * GROWTH)), self._columns)
        start, self._rows = self._rows, self._rows + rows
        self._view(start, self._rows, self._columns)[:, :width] = batch.reshape(rows, width, self._item)
        self._width = max(self._width, width)
        self._widths.append((start, self._rows, width))

    def finish(self) -> Array:
        """Return all rows in one array that owns its memory; the buffer is empty afterwards."""
        width = self._width
        for start, end, columns in self._widths:
            if width != self._columns:
                for low, high in _pieces(start, end, self._columns * self._item):
                    self._view(low, high, width)[:, :columns] = self._view(low, high, self._columns)[:, :columns]
            if columns < width:
                self._view(start, end, width)[:, columns:] = np.array(IGNORED_LABEL).astype(self._memory.dtype)
        memory, rows = self._memory, self._rows
        self._memory, self._widths, self._rows = np.empty(0, dtype=memory.dtype), [], 0
        memory.resize((rows,) if self._is_flat else (rows, width, *self._inner), refcheck=False)
        return memory

    def _widen(self, width: int) -> None:
        """Make room for ``width`` columns: extend the memory, then move the rows apart, the last one first."""
        old = self._columns
        new = width if not self._rows else max(width, math.ceil(old * GROWTH))
        self._resize(self._capacity, new)
        for start, end, columns in reversed(self._widths):
            for low, high in reversed(list(_pieces(start, end, new * self._item))):
                self._view(low, high, new)[:, :columns] = self._view(low, high, old)[:, :columns]

    def _resize(self, capacity: int, columns: int) -> None:
        # In place: nothing else holds this memory. realloc moves a large block's pages without copying them.
        self._memory.resize(capacity * columns * self._item, refcheck=False)
        self._capacity, self._columns = capacity, columns

    def _view(self, start: int, end: int, columns: int) -> Array:
        row = columns * self._item
        return self._memory[start * row : end * row].reshape(end - start, columns, self._item)


def _pieces(start: int, end: int, row: int) -> Iterator[tuple[int, int]]:
    size = max(PIECE_ITEMS // max(row, 1), 1)
    for low in range(start, end, size):
        yield low, min(low + size, end)


@dataclass(frozen=True)
class Objects:
    """What is no tensor: one object a sample."""

    items: list[Any]


class Predictions:
    """One output of all ranks, a nest of tensors a batch, in the data set's order on the host.

    Args:
        engine: where the batches come from.
        name: the output's name, for messages.
        num_samples: rows to expect over all ranks; None when unknown.
        every: move batches to the host every so many; None: at once on a CPU, at the end elsewhere.
        is_joined: False keeps the batches apart, in a list.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        num_samples: int | None = None,
        every: int | None = None,
        is_joined: bool = True,
    ) -> None:
        self._name, self._num_samples, self._is_joined = name, num_samples, is_joined
        self._every = every or (1 if engine.device.type == "cpu" else None)
        self._waiting: deque[Any] = deque()
        self._batches: list[Any] = []
        self._nest: Any = None
        self._parts: list[RowBuffer | list[Any]] = []

    def add(self, output: Any) -> None:
        """Take one batch as `gather_rows` returned it."""
        self._waiting.append(output)
        if self._every is not None and len(self._waiting) >= self._every:
            self._move()

    def join(self) -> Any:
        """Return the nest of numpy arrays (a list of nests when batches are kept apart); None if nothing came."""
        self._move()
        if not self._is_joined:
            batches, self._batches = self._batches, []
            return batches or None
        parts = iter(self._parts)
        return map_nest(self._nest, lambda _: _finished(next(parts)))

    def _move(self) -> None:
        while self._waiting:
            output = self._waiting.popleft()  # let go of one by one: the device holds each until it is copied
            if self._is_joined:
                self._write(output)
            else:
                self._batches.append(map_nest(output, lambda leaf: _on_host(leaf, copy=True)))

    def _write(self, output: Any) -> None:
        arrays = [_on_host(leaf) for leaf in nest_leaves(output)]
        if self._nest is None:
            self._nest = map_nest(output, lambda _: 0)
            rows = max((len(array) for array in arrays if isinstance(array, np.ndarray)), default=0)
            self._parts = [self._part(array, rows) for array in arrays]
        if len(arrays) != len(self._parts):
            raise DataError(
                f"The {self._name} of a batch are {len(arrays)} tensors and those of the first were "
                f"{len(self._parts)}, so they cannot be joined. Return the same from every batch, or set "
                "eval_do_concat_batches=False."
            )
        for part, array in zip(self._parts, arrays, strict=True):
            if isinstance(part, RowBuffer):
                part.add(array)
            else:
                part.extend(array)

    def _part(self, first: Any, rows: int) -> RowBuffer | list[Any]:
        if not isinstance(first, np.ndarray):
            return []
        # What has fewer rows than the batch (one value a batch, say) has not one row a sample.
        num_rows = self._num_samples if len(first) == rows else None
        try:
            return RowBuffer(first, num_rows=num_rows)
        except MemoryError as error:
            size = first.nbytes / max(rows, 1) * (num_rows or rows) / 2**30
            raise DataError(
                f"The {self._name} of {num_rows} samples take {size:.1f} GiB of host memory, which this machine does "
                "not have. Reduce them with preprocess_logits_for_metrics, or give metrics that are updated batch by "
                "batch: torchmetrics, or a function with batch_eval_metrics=True."
            ) from error


def gather_rows(engine: Engine, output: Any, size: int, *, name: str = "outputs", takes_objects: bool = False) -> Any:
    """Return the first ``size`` rows of this rank and those of the others, in rank order, on the device.

    A 0-d tensor counts as one row. Where dimension 1 differs between the ranks it is padded with -100. With
    ``takes_objects`` a list of what is no tensor becomes `Objects`, pickled on the way between our processes.

    All ranks must call this, with nests of the same shape.

    Raises:
        DataError: something is no tensor, and ``takes_objects`` is False.
    """
    rows = map_nest(output, lambda leaf: _rows(leaf, size, name, takes_objects), objects=takes_objects)
    if engine.world_size > 1:
        rows = pad_across_ranks(engine, rows)
    if not takes_objects:
        return engine.gather(rows)
    return map_nest(rows, lambda leaf: _gathered(engine, leaf))


def pad_across_ranks(engine: Engine, tree: Any) -> Any:
    """Pad dimension 1 of every tensor with -100 to the longest of all ranks.

    All ranks must call this, with nests of the same shape. The host reads one row of sizes a rank.
    """
    sizes = [leaf.shape[1] for leaf in nest_leaves(tree) if isinstance(leaf, Tensor) and leaf.dim() > 1]
    if not sizes or engine.world_size == 1:
        return tree
    longest = iter(engine.gather(torch.tensor([sizes])).amax(dim=0).tolist())

    def padded(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() <= 1:
            return leaf
        missing = next(longest) - leaf.shape[1]
        if missing == 0:
            return leaf
        return torch.cat((leaf, leaf.new_full((leaf.shape[0], missing, *leaf.shape[2:]), IGNORED_LABEL)), dim=1)

    return map_nest(tree, padded)


def map_nest(tree: Any, function: Callable[[Any], Any], *, objects: bool = False) -> Any:
    """Apply ``function`` to the leaves of mappings, lists and tuples; None stays None.

    With ``objects``, a list without any tensor inside is a leaf: one object a sample.
    """
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {key: map_nest(value, function, objects=objects) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)) and not (objects and _has_no_tensor(tree)):
        kind = list if isinstance(tree, list) else tuple
        return kind(map_nest(value, function, objects=objects) for value in tree)
    if hasattr(tree, "to_legacy_cache"):  # a model's keys and values, asked for with ignore_keys=[]
        return map_nest(tree.to_legacy_cache(), function, objects=objects)
    return function(tree)


def nest_leaves(tree: Any) -> list[Any]:
    """Return the leaves of a nest in order."""
    found: list[Any] = []
    map_nest(tree, found.append)
    return found


def _has_no_tensor(tree: Any) -> bool:
    leaves = nest_leaves(tree)
    return bool(leaves) and not any(isinstance(leaf, Tensor) for leaf in leaves)


def _rows(leaf: Any, size: int, name: str, takes_objects: bool) -> Any:
    if isinstance(leaf, Tensor):
        leaf = leaf.detach()
        return leaf[:size] if leaf.dim() else leaf.reshape(1)[:size]
    if takes_objects:
        return Objects(list(leaf)[:size] if isinstance(leaf, (list, tuple)) else [leaf][:size])
    raise DataError(
        f"The {name} hold a {type(leaf).__name__} ({leaf!r:.60}), and only tensors are collected. Leave it out with "
        "ignore_keys, or set eval_use_gather_object=True, which collects any object."
    )


def _gathered(engine: Engine, leaf: Any) -> Any:
    if isinstance(leaf, Objects):
        return Objects([item for of_rank in engine.gather_object(leaf.items) for item in of_rank])
    return engine.gather(leaf)


def _on_host(leaf: Any, *, copy: bool = False) -> Any:
    if isinstance(leaf, Objects):
        return leaf.items
    tensor = leaf.cpu()
    if tensor.dtype == torch.bfloat16:  # numpy has none
        return tensor.float().numpy()
    return np.array(tensor.numpy()) if copy else tensor.numpy()


def _finished(part: RowBuffer | list[Any]) -> Any:
    return part.finish() if isinstance(part, RowBuffer) else part
