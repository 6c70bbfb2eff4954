"""Batch samplers that deal whole batches to the ranks and start at any sample of an epoch.

A position is the number of samples consumed in an epoch's global order. That order depends on seed,
epoch and number of samples only, so a run continues at it with another batch size or number of processes,
and a resume looks up where to go on instead of loading what it skips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from hftrain.data.dealing import Deal, Tail, train_tail
from hftrain.data.reseeding import PlacedIndices, epoch_key
from hftrain.errors import DataError

Indices = Tensor | NDArray[np.int64] | Sequence[int]


def epoch_order(num_samples: int, *, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """Return the order of an epoch: ``(num_samples,)`` int64 indices.

    The same on every rank and machine; draws nothing from torch's default generator. The shuffled
    order is that of Accelerate's seedable sampler with the same seed.
    """
    if not shuffle:
        return torch.arange(num_samples, device="cpu")
    # The device is named because a user may have set another default device.
    generator = torch.Generator(device="cpu")
    generator.manual_seed(seed + epoch)
    return torch.randperm(num_samples, generator=generator, device="cpu")


class EpochBatchSampler(Sampler[list[int]]):
    """This rank's batches of a seeded epoch, from any position.

    Whole batches are dealt: of ``batch_size * world_size`` consecutive samples of the order, rank p
    takes the p-th ``batch_size``. With ``even_batches`` and several processes, the last round is
    filled up with the first samples of the order, so that all ranks have equally many full batches.

    Args:
        num_samples: size of the data set.
        batch_size: samples per rank and batch.
        seed: with the epoch, decides the order.
        shuffle: False keeps the data set's own order.
        drop_last: leave out a last round that is not full.
        even_batches: False deals the last round as it is; some ranks may then have one batch less.
        process_index: this rank.
        world_size: number of ranks.
        order: gives the indices of an epoch instead of the seeded shuffle; must be a pure function of the epoch.

    Raises:
        DataError: a size is below one, or ``process_index`` is no rank.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        even_batches: bool = True,
        process_index: int = 0,
        world_size: int = 1,
        order: Callable[[int], Indices] | None = None,
    ) -> None:
        if num_samples < 1:
            raise DataError(f"The data set has {num_samples} samples; there is nothing to take batches from.")
        tail = train_tail(drop_last=drop_last, even_batches=even_batches, world_size=world_size)
        self._deal = Deal(share=batch_size, process_index=process_index, world_size=world_size, tail=tail)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.round_size = self._deal.round_size
        self.global_batch_size = self.round_size
        self.drop_last = drop_last
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.samples_done = 0
        self._order = order

    def set_position(self, epoch: int, samples_done: int = 0) -> None:
        """Start the next iteration in ``epoch``, behind ``samples_done`` samples of all ranks together.

        More than the data set has means the epoch's end: a filled-up last batch counts more than there are.
        """
        if epoch < 0 or samples_done < 0:
            raise DataError(f"epoch={epoch}, samples_done={samples_done}: a position has no negative part.")
        self.epoch = epoch
        self.samples_done = min(samples_done, self.num_samples)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of ``epoch``."""
        self.set_position(epoch)

    def remaining(self) -> int:
        """Return this rank's number of batches from the current position to the epoch's end."""
        return self.remaining_after(self.samples_done)

    def remaining_after(self, samples_done: int) -> int:
        """Return this rank's number of batches behind a position, in samples over all ranks, to the epoch's end."""
        return self._deal.num_rounds(self.num_samples - samples_done)

    def __len__(self) -> int:
        """Return this rank's number of batches in a whole epoch, wherever the position is."""
        return self._deal.num_rounds(self.num_samples)

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches(self._slicer(), self.samples_done)

    def _batches(self, take: Callable[[int, int], list[int]], start: int) -> Iterator[list[int]]:
        share, size = self.batch_size, self.round_size
        end = self.num_samples - (self.num_samples - start) % size
        low, key = self._deal.low, epoch_key(self.seed, self.epoch)
        for begin in range(start + low, end + low, size):
            yield PlacedIndices(take(begin, begin + share), key=key, position=begin)
        if end < self.num_samples and (part := self._deal.last(take(end, self.num_samples), take(0, size))[0]):
            yield PlacedIndices(part, key=key, position=end + low)

    def _slicer(self) -> Callable[[int, int], list[int]]:
        # Python ints are made batch by batch: a list of ten million of them takes longer than all else here.
        if self._order is None and not self.shuffle:
            size = self.num_samples
            return lambda begin, end: list(range(begin, min(end, size)))
        order = self._indices()
        if isinstance(order, np.ndarray):
            return lambda begin, end: order[begin:end].tolist()
        return lambda begin, end: list(order[begin:end])

    def _indices(self) -> NDArray[np.int64] | Sequence[int]:
        if self._order is None:
            order: Indices = epoch_order(self.num_samples, seed=self.seed, epoch=self.epoch, shuffle=True)
        else:
            order = self._order(self.epoch)
        if len(order) != self.num_samples:
            raise DataError(
                f"order(epoch={self.epoch}) gave {len(order)} indices for a data set of {self.num_samples} samples. "
                f"Return each index once."
            )
        # numpy slices in a third of torch's time.
        return order.numpy() if isinstance(order, Tensor) else order


class EvalBatchSampler(Sampler[list[int]]):
    """In order, every sample exactly once over all ranks, equally many batches on every rank.

    Whole batches are dealt in turn, so results gathered in rank order after each batch have the data
    set's order. A rank for which nothing is left gets a batch of one filler sample; `num_real` says so.

    Args:
        num_samples: size of the data set.
        batch_size: samples per rank and batch.
        drop_last: leave out a last batch of fewer than ``batch_size`` samples.
        process_index: this rank.
        world_size: number of ranks.

    Raises:
        DataError: a size is below one, or ``process_index`` is no rank.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        drop_last: bool = False,
        process_index: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1:
            raise DataError(f"The data set has {num_samples} samples; there is nothing to evaluate.")
        self._deal = Deal(share=batch_size, process_index=process_index, world_size=world_size, tail=Tail.FILLER)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.global_batch_size = self._deal.round_size
        self.num_samples = num_samples - num_samples % batch_size if drop_last else num_samples

    def __len__(self) -> int:
        return self._deal.num_rounds(self.num_samples)

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self)):
            begin = self._begin(index)
            yield list(range(begin, begin + self.num_real(index))) or [0]

    def num_real(self, index: int) -> int:
        """Return how many samples of this rank's batch ``index`` count; 0 for the filler."""
        return max(0, min(self.batch_size, self.num_samples - self._begin(index)))

    def _begin(self, index: int) -> int:
        return index * self._deal.round_size + self._deal.low
