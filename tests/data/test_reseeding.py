"""Random numbers in workers depend on the sample alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset

from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import train_loader
from hftrain.data.reseeding import PlacedIndices, epoch_key, seed_for_sample
from hftrain.data.settings import LoaderSettings


class Noise(Dataset[Tensor]):
    """Draws from each of the three generators; the first number is the index."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, torch.rand(()), np.random.rand(), random.random()], dtype=torch.float64)


class AtOnce(Noise):
    """Draws for a whole batch, as a `datasets.Dataset` with a transform does."""

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        keys = list.copy(indices)  # which iterates over nothing
        return [torch.tensor([key, torch.rand(())], dtype=torch.float64) for key in keys]


def batches(
    data: Any = None, *, num_workers: int, epoch: int = 1, done: int = 0, sampler: Any = None, **changes: Any
) -> list[Tensor]:
    how = LoaderSettings(**{"batch_size": 4, "seed": 3, "num_workers": num_workers} | changes)
    loader = train_loader(Noise() if data is None else data, how, sampler=sampler)
    torch.manual_seed(num_workers)  # the workers' own seeds come from here
    opened = EpochLoader(loader).open(epoch, samples_done=done, batches_done=done // 4)
    return list(opened)


def samples(**how: Any) -> Tensor:
    return torch.cat(batches(**how))


def num_different(numbers: Tensor) -> int:
    return len(set(numbers.flatten().tolist()))


@pytest.mark.parametrize(
    "sampler", [lambda: None, lambda: RandomSampler(range(22), generator=torch.Generator().manual_seed(1))]
)
def test_noise_does_not_depend_on_the_number_of_workers(sampler: Callable[[], Any]) -> None:
    own = sampler()
    one, two = (samples(num_workers=n, sampler=sampler(), use_seedable_sampler=own is None) for n in (1, 2))
    assert torch.equal(one, two)
    assert num_different(one[:, 1:]) == 66


def test_a_resume_and_another_batch_size_find_the_noise_of_each_sample() -> None:
    whole = samples(num_workers=1)
    assert torch.equal(samples(num_workers=2, done=8), whole[8:])
    assert torch.equal(samples(num_workers=1, batch_size=5), whole)
    assert not set(samples(num_workers=1, epoch=2)[:, 1].tolist()) & set(whole[:, 1].tolist())


def test_each_process_has_the_noise_of_its_own_samples() -> None:
    whole = {int(sample[0]): sample for sample in samples(num_workers=1)}
    for rank in (0, 1):
        for batch in batches(num_workers=1, process_index=rank, world_size=2)[:2]:
            assert all(torch.equal(sample, whole[int(sample[0])]) for sample in batch)


@pytest.mark.parametrize("data", [AtOnce(), Subset(AtOnce(), range(22)), Subset(Noise(), range(22))])
def test_a_batch_that_is_made_at_once_depends_on_its_place_only(data: Any) -> None:
    one, two = samples(data=data, num_workers=1), samples(data=data, num_workers=2)
    assert torch.equal(one, two)
    assert num_different(one[:, 1]) == 22


def test_what_a_collator_draws_in_a_worker_does_not_depend_on_their_number() -> None:
    def collated(num_workers: int) -> Tensor:
        how = LoaderSettings(batch_size=4, seed=3, num_workers=num_workers)
        loader = train_loader(range(20), how, collate_fn=lambda indices: torch.rand(2))
        return torch.stack(list(EpochLoader(loader).open(0)))

    assert torch.equal(collated(1), collated(2))
    assert num_different(collated(1)) == 10


def test_batches_of_a_users_batch_sampler_have_their_own_noise() -> None:
    given = [[2, 0, 4], [1, 3], [5, 6], [7, 8]]

    def rank(index: int, num_workers: int) -> Tensor:
        loader = DataLoader(Noise(), batch_sampler=given, num_workers=num_workers)
        how = LoaderSettings(batch_size=1, seed=3, process_index=index, world_size=2)
        return torch.cat(list(EpochLoader(train_loader(loader, how)).open(0)))

    assert torch.equal(rank(0, 1), rank(0, 2))
    assert num_different(torch.cat([rank(0, 1), rank(1, 1)])[:, 1]) == 9


def test_the_process_that_trains_is_not_seeded() -> None:
    def noise(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat(list(EpochLoader(train_loader(Noise(), LoaderSettings(batch_size=4, seed=3))).open(0)))[:, 1]

    assert not torch.equal(noise(0), noise(1))
    assert [*PlacedIndices([4, 2], key=0, position=0)] == [4, 2]


def test_seeds_of_neighbours_have_nothing_in_common() -> None:
    drawn = []
    for epoch in range(3):
        for position in range(50):
            seed_for_sample(epoch_key(0, epoch), position)
            drawn += [torch.rand(()).item(), random.random(), np.random.rand()]
    assert len(set(drawn)) == 450
    assert abs(float(np.corrcoef(drawn[:-3], drawn[3:])[0, 1])) < 0.2
