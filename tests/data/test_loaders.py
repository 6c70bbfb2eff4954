"""Loaders: what they accept, what each rank gets, what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from hftrain.data.dealt import DealtSampler
from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import eval_loader, train_loader
from hftrain.data.samplers import EpochBatchSampler, EvalBatchSampler, epoch_order
from hftrain.data.settings import LoaderSettings
from hftrain.errors import DataError


def settings(**changes: Any) -> LoaderSettings:
    return LoaderSettings(**{"batch_size": 2, "seed": 3} | changes)


def samples(loader: DataLoader[Any], epoch: int = 0, **position: int) -> list[int]:
    """What counts of one epoch on this rank."""
    epochs = EpochLoader(loader)
    return [
        sample
        for index, batch in enumerate(epochs.open(epoch, **position))
        for sample in batch.tolist()[: epochs.num_real(index)]
    ]


class Count(IterableDataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))


class SizedCount(Count):
    def __len__(self) -> int:
        return self.size


class Unsized(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


class Sized(Unsized):
    def __len__(self) -> int:
        return 10


class PairsOfBatches:
    """A batch sampler of a user, with sizes of its own."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0], [1, 2], [3, 4, 5], [6, 7], [8, 9]])

    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize("data", [list(range(10)), tuple(range(10)), Sized(), np.arange(10), torch.arange(10)])
def test_lists_tuples_arrays_and_data_sets_train_in_the_seeded_order(data: Any) -> None:
    assert samples(train_loader(data, settings()), 2) == epoch_order(10, seed=3, epoch=2, shuffle=True).tolist()


def test_batches_are_made_by_torchs_collate_or_the_one_given() -> None:
    batch = next(iter(train_loader([{"x": 1.0}, {"x": 2.0}], settings())))
    assert batch["x"].dtype is torch.float64
    assert next(iter(train_loader([1, 2], settings(), collate_fn=sorted))) == [1, 2]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_divide_an_epoch(world: int) -> None:
    parts = [samples(train_loader(range(12), settings(process_index=rank, world_size=world))) for rank in range(world)]
    assert sorted(sum(parts, [])) == list(range(12))


def test_split_batches_divides_the_batch_size() -> None:
    loader = train_loader(range(8), settings(batch_size=4, split_batches=True, world_size=2))
    assert [len(batch) for batch in loader] == [2, 2]


def test_a_plain_random_sampler_becomes_the_seeded_order() -> None:
    loader = train_loader(range(9), settings(), sampler=RandomSampler(range(9)))
    assert isinstance(loader.batch_sampler, EpochBatchSampler)
    assert samples(loader) == epoch_order(9, seed=3, epoch=0, shuffle=True).tolist()


def test_use_seedable_sampler_false_leaves_a_random_sampler_as_it_is() -> None:
    loader = train_loader(range(9), settings(use_seedable_sampler=False), sampler=RandomSampler(range(9)))
    torch.manual_seed(0)
    expected = [index for batch in DataLoader(range(9), batch_size=2, shuffle=True) for index in batch.tolist()]
    torch.manual_seed(0)
    assert samples(loader) == expected


def test_use_seedable_sampler_false_without_a_sampler_is_torchs_shuffle() -> None:
    torch.manual_seed(0)
    expected = [index for batch in DataLoader(range(9), batch_size=2, shuffle=True) for index in batch.tolist()]
    torch.manual_seed(0)
    assert samples(train_loader(range(9), settings(use_seedable_sampler=False))) == expected


def test_a_sequential_sampler_keeps_the_order_and_starts_anywhere() -> None:
    loader = train_loader(range(6), settings(), sampler=SequentialSampler(range(6)))
    assert samples(loader, samples_done=3) == [3, 4, 5]


def test_another_sampler_is_read_in_its_own_order() -> None:
    loader = train_loader(range(6), settings(), sampler=[5, 5, 0])
    assert (samples(loader), len(loader)) == ([5, 5, 0], 2)


def test_a_sampler_makes_up_for_a_missing_length() -> None:
    assert samples(train_loader(Unsized(), settings(), sampler=[7, 8])) == [7, 8]


def test_a_users_loader_is_used_as_it_is_on_one_process() -> None:
    loader = DataLoader(range(4), batch_size=3, shuffle=True)
    assert train_loader(loader, settings()) is loader
    assert eval_loader(loader, settings()) is loader


def user_loaders() -> dict[str, DataLoader[Any]]:
    return {
        "plain": DataLoader(Sized(), batch_size=2),
        "shuffled": DataLoader(Sized(), batch_size=2, shuffle=True),
        "generator": DataLoader(Sized(), batch_size=2, shuffle=True, generator=torch.Generator()),
        "weighted": DataLoader(Sized(), batch_size=2, sampler=WeightedRandomSampler([1.0] * 10, 10, replacement=False)),
        "batches": DataLoader(Sized(), batch_sampler=PairsOfBatches()),
        "iterable": DataLoader(Count(10), batch_size=2),
        "workers": DataLoader(Sized(), batch_size=2, num_workers=1),
    }


@pytest.mark.parametrize("name", list(user_loaders()))
@pytest.mark.parametrize("make", [train_loader, eval_loader])
def test_a_users_loader_is_divided_among_several_processes(name: str, make: Any) -> None:
    parts = []
    for rank in range(2):
        torch.manual_seed(rank)
        parts.append(samples(make(user_loaders()[name], settings(process_index=rank, world_size=2))))
    if make is eval_loader:
        assert sorted(parts[0] + parts[1]) == list(range(10))
    assert set(parts[0] + parts[1]) == set(range(10))


@pytest.mark.parametrize("make", [train_loader, eval_loader])
def test_a_loader_without_batching_is_divided_among_several_processes(make: Any) -> None:
    loaders = [
        make(DataLoader(torch.arange(10).view(5, 2), batch_size=None), settings(process_index=rank, world_size=2))
        for rank in range(2)
    ]
    expected = [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7]] + ([[0, 1]] if make is train_loader else [[8, 9]])]
    assert [[batch.tolist() for batch in loader] for loader in loaders] == expected


def test_a_divided_loader_keeps_its_settings() -> None:
    def collate(batch: list[int]) -> torch.Tensor:
        return torch.tensor(batch) + 100

    loader = DataLoader(Sized(), batch_size=5, num_workers=1, collate_fn=collate, prefetch_factor=4, drop_last=True)
    made = train_loader(loader, settings(world_size=2))
    assert (made.num_workers, made.collate_fn, made.prefetch_factor) == (1, collate, 4)
    assert (made.batch_sampler.batch_size, made.batch_sampler.drop_last) == (5, True)


@pytest.mark.parametrize("make", [train_loader, eval_loader])
def test_a_loader_that_deals_already_is_left_alone(make: Any) -> None:
    two = settings(world_size=2)
    own = make(range(4), two)
    distributed = DataLoader(range(4), sampler=DistributedSampler(range(4), num_replicas=2, rank=0))
    assert make(own, two) is own
    assert make(distributed, two) is distributed


def test_evaluation_goes_in_order_and_counts_no_filler() -> None:
    parts = [samples(eval_loader(range(5), settings(process_index=rank, world_size=2))) for rank in range(2)]
    assert parts == [[0, 1, 4], [2, 3]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_of_an_iterable_counts_every_sample_once_and_no_filler(num_workers: int) -> None:
    loaders = [
        eval_loader(Count(5), settings(process_index=rank, world_size=2, num_workers=num_workers)) for rank in range(2)
    ]
    opened = [EpochLoader(loader) for loader in loaders]
    batches = [[batch.tolist() for batch in epochs.open(0)] for epochs in opened]
    assert batches == [[[0, 1], [4]], [[2, 3], [4]]]
    assert [epochs.num_real(1) for epochs in opened] == [None, 0]


def test_evaluation_drops_an_unfinished_batch_when_asked() -> None:
    assert samples(eval_loader(range(5), settings(drop_last=True))) == [0, 1, 2, 3]
    assert samples(eval_loader(Count(5), settings(drop_last=True))) == [0, 1, 2, 3]


def test_a_sampler_of_evaluation_has_the_loaders_batches() -> None:
    assert isinstance(eval_loader(range(5), settings()).batch_sampler, EvalBatchSampler)
    shuffled = eval_loader(DataLoader(range(5), batch_size=2, shuffle=True), settings(world_size=2))
    assert isinstance(shuffled.batch_sampler, DealtSampler)


def test_an_iterable_is_read_once_by_each_worker_as_torch_does() -> None:
    loader = train_loader(Count(4), settings(num_workers=2))
    assert sorted(samples(loader)) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("make", [train_loader, eval_loader])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "\\(list\\) is empty"),
        (SizedCount(0), "\\(SizedCount\\) is empty"),
        (DataLoader([], batch_size=1), "is empty"),
        (Unsized(), "Unsized has __getitem__ but no length.*set max_steps"),
        ({"train": [1]}, "dict with keys \\['train'\\] is not a data set"),
        ((index for index in range(3)), "generator can be iterated, perhaps only once"),
        (7, "int is no data set"),
    ],
)
def test_what_is_no_data_set_is_refused(make: Any, data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(data, settings())


@pytest.mark.parametrize(
    ("data", "sampler", "message"),
    [
        (range(4), BatchSampler(range(4), 2, False), "BatchSampler is a batch sampler"),
        (range(4), [], "The sampler \\(list\\) gives no index"),
        (Count(3), [1], "an iterable data set, which has its own order"),
        (DataLoader(range(4)), [1], "Give the data set instead"),
    ],
)
def test_a_sampler_that_cannot_be_used_is_refused(data: Any, sampler: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        train_loader(data, settings(), sampler=sampler)


@pytest.mark.parametrize("data", [range(3), SizedCount(3)])
def test_dropping_everything_is_refused(data: Any) -> None:
    with pytest.raises(DataError, match="3 samples do not fill a batch.*dataloader_drop_last=False"):
        train_loader(data, settings(drop_last=True, world_size=2))


def test_batches_of_their_own_size_cannot_be_split() -> None:
    loader = DataLoader(Sized(), batch_sampler=PairsOfBatches())
    with pytest.raises(DataError, match="PairsOfBatches, whose sizes are its own"):
        train_loader(loader, settings(split_batches=True, world_size=2))
