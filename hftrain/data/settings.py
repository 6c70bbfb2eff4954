"""How loaders are made: sizes, workers, this rank."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, RandomSampler

from hftrain.data.dealing import Deal, Tail, train_tail
from hftrain.data.dealt import DealtSampler, give_generator
from hftrain.data.dispatch import Exchange
from hftrain.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How loaders are made.

    Args:
        batch_size: samples per process and batch; with ``split_batches`` of all processes together.
        seed: decides the order, with the epoch.
        num_workers: loader processes per rank.
        pin_memory: use page-locked memory; acts when ``device_type`` is "cuda".
        persistent_workers: keep workers over epochs; needs workers.
        prefetch_factor: batches each worker loads ahead; needs workers.
        drop_last: leave out what does not fill a batch on every rank.
        even_batches: let a last round repeat the first samples, so that all ranks have equally many batches.
        split_batches: ``batch_size`` is divided among the processes.
        dispatch_batches: the main process reads and sends to the others; None: it does so for iterable data sets.
        use_seedable_sampler: replace a plain `RandomSampler` by the seeded order, which can resume anywhere.
        process_index: this rank.
        world_size: number of ranks.
        device_type: where the batches go.
        exchange: how processes hand each other objects; None: each reads for itself and draws alike.

    Raises:
        DataError: a value cannot be used.
    """

    batch_size: int
    seed: int
    num_workers: int = 0
    pin_memory: bool = True
    persistent_workers: bool = False
    prefetch_factor: int | None = None
    drop_last: bool = False
    even_batches: bool = True
    split_batches: bool = False
    dispatch_batches: bool | None = None
    use_seedable_sampler: bool = True
    process_index: int = 0
    world_size: int = 1
    device_type: str = "cpu"
    exchange: Exchange | None = None

    def __post_init__(self) -> None:
        self.rank_share(self.batch_size)
        if self.num_workers > 0:
            return
        if self.persistent_workers:
            raise DataError("dataloader_persistent_workers=True needs workers. Set dataloader_num_workers=1 or more.")
        if self.prefetch_factor is not None:
            raise DataError(
                f"dataloader_prefetch_factor={self.prefetch_factor} needs workers. "
                f"Set dataloader_num_workers=1 or more, or leave it out."
            )

    def rank_share(self, batch_size: int) -> int:
        """Return how many samples of a batch one process takes."""
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: a batch holds at least one sample. Set batch_size=1 or more.")
        if not self.split_batches:
            return batch_size
        if batch_size % self.world_size:
            raise DataError(
                f"split_batches=True cannot divide batch_size={batch_size} among {self.world_size} processes. "
                f"Set batch_size={batch_size + -batch_size % self.world_size}, or split_batches=False."
            )
        return batch_size // self.world_size

    def deal(self, *, share: int, tail: Tail) -> Deal:
        """Return this rank's part in rounds of ``share`` units a rank."""
        return Deal(share=share, process_index=self.process_index, world_size=self.world_size, tail=tail)

    def train_tail(self, *, drop_last: bool) -> Tail:
        """Return what happens to a last round that is not full."""
        return train_tail(drop_last=drop_last, even_batches=self.even_batches, world_size=self.world_size)

    def dispatches(self, dataset: Any) -> bool:
        """Whether the main process reads this data for all."""
        if self.world_size == 1 or self.exchange is None:
            return False
        return isinstance(dataset, IterableDataset) if self.dispatch_batches is None else self.dispatch_batches

    def alone(self) -> LoaderSettings:
        """Return the settings of one process that reads everything."""
        return replace(self, process_index=0, world_size=1, exchange=None)

    def dealt(self, source: Iterable[Any], *, batch_size: int | None, tail: Tail) -> DealtSampler:
        """Return this rank's part of somebody else's sampler.

        A `RandomSampler` with replacement, or of another number of samples than there are, is seeded by seed and
        epoch like the plain one. With ``use_seedable_sampler=False`` a sampler without generator gets one on several
        processes, seeded by one draw from torch's default generator now, as accelerate does.
        """
        is_random = type(source) is RandomSampler and self.use_seedable_sampler
        if is_random:
            source = copy.copy(source)
            source.generator = None  # type: ignore[attr-defined]
        elif self.exchange is not None and self.world_size > 1 and not self.use_seedable_sampler:
            seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_().item())
            give_generator(source, self.exchange.broadcast_object(seed))
        return DealtSampler(
            source,
            batch_size=batch_size,
            tail=tail,
            seed=self.seed,
            process_index=self.process_index,
            world_size=self.world_size,
            exchange=self.exchange if self.world_size > 1 else None,
            is_seeded=is_random or (self.world_size > 1 and self.exchange is None),
        )

    def worker_options(self, *, training: bool) -> dict[str, Any]:
        """Return the arguments of a DataLoader that say how it loads."""
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory and self.device_type == "cuda",
            "persistent_workers": self.persistent_workers,
            "prefetch_factor": self.prefetch_factor,
            "worker_init_fn": self.worker_init(training=training),
        }

    def worker_init(self, *, training: bool) -> RankSeed | None:
        """Return what seeds a worker; the evaluation of one process leaves it to torch."""
        if self.num_workers == 0 or not (training or self.world_size > 1):
            return None
        return RankSeed(self.process_index * self.num_workers)


class RankSeed:
    """Seeds a worker's torch, numpy and python generators so that no two workers of any ranks share a seed.

    torch itself seeds workers from a number that is the same on all ranks, plus the worker's own. The seeds are those
    of transformers' Trainer.

    Args:
        offset: number of workers of the ranks before this one.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __call__(self, worker_id: int) -> None:
        """Seed the worker; called in it."""
        seed = torch.initial_seed() % _SEEDS + self._offset
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % _SEEDS)


_SEEDS = 2**32
"""What numpy can be seeded with."""
