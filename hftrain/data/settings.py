"""How loaders are made: sizes, workers, this rank."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hftrain.data.dealing import Deal, Tail, train_tail
from hftrain.data.samplers import DealtSampler
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
        use_seedable_sampler: replace a plain `RandomSampler` by the seeded order, which can resume anywhere.
        process_index: this rank.
        world_size: number of ranks.
        device_type: where the batches go.

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
    use_seedable_sampler: bool = True
    process_index: int = 0
    world_size: int = 1
    device_type: str = "cpu"

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

    def dealt(self, source: Iterable[Any], *, batch_size: int | None, tail: Tail) -> DealtSampler:
        """Return this rank's part of somebody else's sampler."""
        return DealtSampler(
            source,
            batch_size=batch_size,
            tail=tail,
            seed=self.seed,
            process_index=self.process_index,
            world_size=self.world_size,
        )

    def worker_options(self) -> dict[str, Any]:
        """Return the arguments of a DataLoader that say how it loads."""
        return {
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory and self.device_type == "cuda",
            "persistent_workers": self.persistent_workers,
            "prefetch_factor": self.prefetch_factor,
            "worker_init_fn": self.worker_init(),
        }

    def worker_init(self) -> RankSeed | None:
        """Return what seeds a worker; one process leaves it to torch."""
        return RankSeed(self.process_index * self.num_workers) if self.num_workers and self.world_size > 1 else None


class RankSeed:
    """Seeds a worker's torch, numpy and python generators so that no two workers of any ranks share a seed.

    torch itself seeds workers from a number that is the same on all ranks, plus the worker's own.

    Args:
        offset: number of workers of the ranks before this one.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __call__(self, worker_id: int) -> None:
        """Seed the worker; called in it."""
        seed = torch.initial_seed() + self._offset
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
