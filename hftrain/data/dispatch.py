"""Loaders that one process reads: it sends every process its part of the batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hftrain.errors import DataError
from hftrain.hardware.tree import leaves, mapping_like, sequence_like


class Exchange(Protocol):
    """How processes hand each other objects. All ranks must call each of these."""

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Return the object of rank ``src``."""

    def scatter_object(self, objects: list[Any] | None) -> Any:
        """Return this rank's of the objects that rank 0 passes, one for each rank; the others pass None."""


@dataclass(frozen=True)
class Part:
    """What one process gets of a round.

    Attributes:
        batch: its batch.
        num_real: how many of its samples count; the rest repeat samples.
    """

    batch: Any
    num_real: int


@dataclass(frozen=True)
class Failure:
    """What the other processes get when the main process cannot read on."""

    text: str


class DispatchingLoader(DataLoader[Any]):
    """A DataLoader that only the main process reads; it sends each process its part of every round.

    A round is one batch for each process, or, with ``split``, one batch that is divided among them. A last round that
    is not full is divided evenly, and filled up with samples of the first round; this is how accelerate's
    ``dispatch_batches`` deals. With ``repeats=False`` no batch holds both samples that count and repeated ones, so that
    its mean loss is that of the former: a last round is dealt in the batches that were read, and a process for which
    none is left gets one that does not count.

    Batches hold tensors with the samples along dimension 0, or lists of them.

    Args:
        dataset: the data; on the other processes only its length is asked for.
        exchange: between the processes.
        world_size: number of processes.
        is_main: whether this process reads.
        split: divide each batch.
        drops_last: leave out a last round that is not full.
        repeats: fill up a last round.
        inner: what of ours deals this loader's samples, or None.
        options: of `torch.utils.data.DataLoader`.

    Attributes:
        spread: batches of the data that make a round.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        exchange: Exchange,
        world_size: int,
        is_main: bool,
        split: bool = False,
        drops_last: bool = False,
        repeats: bool = True,
        inner: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self.inner = inner
        self.spread = 1 if split else world_size
        self._exchange = exchange
        self._world_size = world_size
        self._is_main = is_main
        self._drops_last = drops_last
        self._repeats = repeats
        self._num_real: list[int] = []

    def rounds_of(self, num_batches: int) -> int:
        """Return how many rounds so many batches of the data make."""
        return num_batches // self.spread if self._drops_last else -(-num_batches // self.spread)

    def num_real(self, index: int) -> int:
        """Return how many samples of this process's batch ``index`` of the latest iteration count."""
        return self._num_real[index]

    def __len__(self) -> int:
        return self.rounds_of(super().__len__())

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._num_real = []
        if self._is_main:
            return self._received(self._rounds(super().__iter__()))
        # The number that starting to read draws on the main process: the default generators stay in step.
        torch.empty((), dtype=torch.int64, device="cpu").random_(generator=self.generator)
        return self._received(None)

    def _received(self, rounds: Iterator[list[Part]] | None) -> Iterator[Any]:
        """Yield this process's batches. All ranks must read on together."""
        while (part := self._next_part(rounds)) is not None:
            self._num_real.append(part.num_real)
            yield part.batch

    def _next_part(self, rounds: Iterator[list[Part]] | None) -> Part | None:
        if rounds is None:
            part = self._exchange.scatter_object(None)
            if isinstance(part, Failure):
                raise DataError(f"The main process, which reads the data for all, failed: {part.text}")
            received: Part | None = part
            return received
        try:
            parts: Sequence[Part | None] = next(rounds, [None] * self._world_size)
        except Exception as error:
            # The others wait for a part, and would wait until the process group's timeout.
            self._exchange.scatter_object([Failure(f"{type(error).__name__}: {error}")] * self._world_size)
            raise
        sent: Part | None = self._exchange.scatter_object(list(parts))
        return sent

    def _rounds(self, source: Iterator[Any]) -> Iterator[list[Part]]:
        first: list[Any] = []
        while batches := list(islice(source, self.spread)):
            first = first or batches
            if len(batches) < self.spread and self._drops_last:
                return
            sizes = [size_of(batch) for batch in batches]
            is_full = len(batches) == self._world_size and len(set(sizes)) == 1
            is_dealt_whole = is_full or (self.spread > 1 and not self._repeats)
            yield (self._whole if is_dealt_whole else self._divided)(batches, sizes, first)

    def _divided(self, batches: list[Any], sizes: list[int], first: list[Any]) -> list[Part]:
        """Divide a round evenly over the processes."""
        total = sum(sizes)
        share = -(-total // self._world_size)
        missing = share * self._world_size - total
        joined = _joined(batches, missing, first)
        if joined is None:
            return self._whole(batches, sizes, first)  # padded to different lengths
        size = size_of(joined)
        parts = []
        for begin in range(0, share * self._world_size, share):
            num_real = max(0, min(share, total - begin))
            rows = share if self._repeats else max(1, num_real)
            parts.append(Part(sliced(joined, begin, begin + rows, size), num_real))
        return parts

    def _whole(self, batches: list[Any], sizes: list[int], first: list[Any]) -> list[Part]:
        """Deal a round's batches, and those of the first round again where there are none."""
        dealt = [Part(batch, size) for batch, size in zip(batches, sizes, strict=True)]
        return dealt + [Part(first[rank % len(first)], 0) for rank in range(len(dealt), self._world_size)]


def _joined(batches: list[Any], missing: int, first: list[Any]) -> Any:
    """Join a round and at least ``missing`` samples of the first round, or else of its own; None if none fit."""
    for spare in (first, batches):
        times = -(-missing // sum(size_of(batch) for batch in spare))
        try:
            return concatenated(batches + spare * times)
        except RuntimeError:
            continue
    return None


def size_of(batch: Any) -> int:
    """Return the number of samples of a batch: dimension 0 of its first tensor.

    Raises:
        DataError: it holds no tensor of at least one dimension.
    """
    tensors = (leaf for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim)
    size = next((tensor.shape[0] for tensor in tensors), None)
    if size is None:
        raise DataError(
            f"dispatch_batches=True divides batches along dimension 0 of their tensors, and a batch of type "
            f"{type(batch).__name__} holds none. Return tensors from the data collator, or set dispatch_batches=False."
        )
    return size


def concatenated(batches: Sequence[Any]) -> Any:
    """Join batches of one structure along dimension 0; what has no samples is taken from the first.

    Raises:
        RuntimeError: torch's, if the other dimensions differ.
    """
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches)) if first.ndim else first
    if isinstance(first, Mapping):
        return mapping_like(first, {key: concatenated([batch[key] for batch in batches]) for key in first})
    if _is_column(first):
        return type(first)(chain(*batches))
    if isinstance(first, (list, tuple)):
        return sequence_like(first, [concatenated(items) for items in zip(*batches, strict=True)])
    return first


def sliced(batch: Any, begin: int, end: int, size: int) -> Any:
    """Return the samples from ``begin`` to ``end`` of a batch of ``size``; what has no samples stays."""
    if isinstance(batch, Tensor):
        return batch[begin:end] if batch.ndim and batch.shape[0] == size else batch
    if isinstance(batch, Mapping):
        return mapping_like(batch, {key: sliced(value, begin, end, size) for key, value in batch.items()})
    if _is_column(batch):
        return batch[begin:end] if len(batch) == size else batch
    if isinstance(batch, (list, tuple)):
        return sequence_like(batch, [sliced(item, begin, end, size) for item in batch])
    return batch


def _is_column(tree: Any) -> bool:
    """Whether this is a list with one entry a sample, such as the texts; lists of tensors are structure."""
    return isinstance(tree, (list, tuple)) and not any(
        isinstance(item, (Tensor, Mapping, list, tuple)) for item in tree
    )
