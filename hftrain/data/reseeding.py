"""Random numbers in loader workers that depend on the sample, and not on who loads it after what.

A worker seeds torch's, numpy's and python's generators before each sample, from seed, epoch and the sample's position
in the epoch. So a resumed run augments as the uninterrupted one, with any number of workers. In the process that trains
nothing is seeded: its generators are in the checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_SEEDS = 2**32
"""What numpy can be seeded with."""
_WORKERS = 40
"""Bits for the samples of one worker of an iterable data set."""


def epoch_key(seed: int, epoch: int) -> int:
    """Return what the seeds of an epoch's samples are made from."""
    return _mixed(_mixed(seed) + epoch)


def seed_for_sample(key: int, position: int) -> None:
    """Seed this process's torch, numpy and python generators for the sample at ``position`` of an epoch."""
    seed = _mixed(key + position)
    # torch.manual_seed would note the seed for every kind of device too, which takes longer than all else here.
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % _SEEDS)


def _mixed(value: int) -> int:
    """Spread neighbouring numbers over 64 bits: one step of splitmix64 (Steele, Lea and Flood, 2014)."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class PlacedIndices(list[Any]):
    """The indices of a batch, and where in the epoch it stands: in a worker they seed each sample as they are read.

    Args:
        indices: of the samples.
        key: of `epoch_key`.
        position: of the first sample; the others follow.
    """

    __slots__ = ("key", "position")

    def __init__(self, indices: Iterable[Any], *, key: int, position: int) -> None:
        super().__init__(indices)
        self.key, self.position = key, position

    def __reduce__(self) -> tuple[Any, ...]:
        """Be sent to a worker."""
        return _arrived, (list(self), self.key, self.position)


class _SeedingIndices(list[Any]):
    """What a worker gets."""

    key: int
    position: int

    def __iter__(self) -> Iterator[Any]:
        for position, index in enumerate(super().__iter__(), self.position):
            seed_for_sample(self.key, position)
            yield index


def _arrived(indices: list[Any], key: int, position: int) -> list[Any]:
    if get_worker_info() is None:
        return indices
    # A data set that takes the whole list need not iterate over it.
    seed_for_sample(key, position)
    seeding = _SeedingIndices(indices)
    seeding.key, seeding.position = key, position
    return seeding


def seeded_samples(samples: Iterator[Any], *, seed: int, epoch: int, first: int = 0) -> Iterator[Any]:
    """Pass on the samples that an iterable data set gives in a worker, seeding before each one is made.

    Args:
        samples: of this worker.
        seed, epoch: as of `epoch_key`.
        first: how many samples this worker gave in the epoch before.
    """
    worker = get_worker_info()
    key = epoch_key(seed, epoch)
    begin = first if worker is None else (worker.id << _WORKERS) + first
    for position in count(begin):
        seed_for_sample(key, position)
        sample = next(samples, _END)
        if sample is _END:
            return
        yield sample


_END = object()
