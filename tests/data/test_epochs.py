"""Epochs: positions, what a resume loads, what the loader is told, what is drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from hftrain.data.dealing import Tail
from hftrain.data.epochs import EpochLoader
from hftrain.data.lengths import LengthGroupedSampler
from hftrain.data.loaders import eval_loader, train_loader
from hftrain.data.settings import LoaderSettings
from hftrain.errors import DataError


class Recorder(Dataset[int]):
    """Remembers what was fetched, and the epochs it was told."""

    def __init__(self, size: int = 20) -> None:
        self.size = size
        self.fetched: list[int] = []
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.fetched.append(index)
        return index

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Stream(IterableDataset[int]):
    """Starts at a number that depends on the epoch."""

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(100 * self.epoch, 100 * self.epoch + self.size))


class Numbered(Stream):
    """A stream of a known length."""

    def __len__(self) -> int:
        return self.size


class ToldSampler(Sampler[int]):
    def __init__(self) -> None:
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([self.epoch, self.epoch + 1])

    def __len__(self) -> int:
        return 2


def settings(**changes: Any) -> LoaderSettings:
    return LoaderSettings(**{"batch_size": 2, "seed": 3} | changes)


def flat(batches: Iterator[Any]) -> list[int]:
    return [sample for batch in batches for sample in batch.tolist()]


def test_a_resume_fetches_nothing_of_what_it_skips() -> None:
    whole, rest = Recorder(), Recorder()
    list(EpochLoader(train_loader(whole, settings())).open(1))
    list(EpochLoader(train_loader(rest, settings())).open(1, samples_done=16))
    assert rest.fetched == whole.fetched[16:]


def test_ten_million_samples_are_skipped_by_looking_up_where_to_go_on() -> None:
    dataset = Recorder(10_000_003)
    list(EpochLoader(train_loader(dataset, settings())).open(0, samples_done=10_000_000))
    assert len(dataset.fetched) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_exactly_the_remaining_batches_come_with_workers_too(num_workers: int) -> None:
    loader = EpochLoader(train_loader(range(20), settings(num_workers=num_workers)))
    whole = flat(loader.open(1))
    assert flat(loader.open(1, samples_done=6)) == whole[6:]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_persistent_workers_hear_of_epoch_and_position(num_workers: int) -> None:
    loader = EpochLoader(train_loader(Stream(), settings(num_workers=num_workers, persistent_workers=num_workers > 0)))
    assert [flat(loader.open(epoch))[0] for epoch in (0, 1, 5)] == [0, 100, 500]
    assert flat(loader.open(2, samples_done=4, batches_done=2)) == [204, 205, 206, 207]


def test_an_iterable_goes_on_at_another_batch_size() -> None:
    loader = EpochLoader(train_loader(Stream(), settings(batch_size=5)))
    assert flat(loader.open(0, samples_done=2)) == [2, 3, 4, 5, 6, 7]


def test_a_users_loader_drops_the_batches_done_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    dataset = Recorder()
    loader = EpochLoader(DataLoader(dataset, batch_size=4))
    with caplog.at_level(logging.INFO, logger="hftrain.data.epochs"):
        assert flat(loader.open(0, samples_done=12, batches_done=3)) == list(range(12, 20))
    assert "Loaded and dropped 3 batches" in caplog.text
    assert dataset.fetched == list(range(20))


def test_dropping_more_than_there_is_is_an_error() -> None:
    with pytest.raises(DataError, match="behind 4 batches, and the loader gives 2"):
        EpochLoader(DataLoader(range(8), batch_size=4)).open(0, batches_done=4)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_random_sampler_has_the_order_of_the_epochs_start(num_workers: int) -> None:
    def opened(**position: int) -> list[int]:
        sampler = RandomSampler(range(20))
        given = settings(use_seedable_sampler=False, num_workers=num_workers)
        loader = EpochLoader(train_loader(range(20), given, sampler=sampler))
        torch.manual_seed(11)
        iterator = loader.open(0, **position)
        if position:
            torch.manual_seed(99)  # what a resume restores only after the loader is open
        return flat(iterator)

    assert opened(samples_done=8) == opened()[8:]


def test_opening_draws_what_torchs_loader_draws_and_once() -> None:
    torch.manual_seed(0)
    iter(DataLoader(range(8)))
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    list(EpochLoader(train_loader(range(8), settings())).open(0, samples_done=4))
    assert torch.get_rng_state().equal(expected)


def test_samplers_and_data_sets_hear_of_the_epoch() -> None:
    dataset, sampler = Recorder(), ToldSampler()
    EpochLoader(train_loader(dataset, settings())).open(3)
    assert dataset.epochs == [3]
    assert flat(EpochLoader(train_loader(range(9), settings(), sampler=sampler)).open(4)) == [4, 5]
    assert flat(EpochLoader(DataLoader(range(9), sampler=sampler)).open(5)) == [5, 6]
    assert flat(EpochLoader(DataLoader(Stream(2), batch_size=2)).open(6)) == [600, 601]


def test_evaluation_leaves_the_epoch_of_its_data_set_alone() -> None:
    dataset = Recorder(4)
    assert flat(EpochLoader(eval_loader(dataset, settings())).open(0)) == [0, 1, 2, 3]
    assert dataset.epochs == []


def test_a_users_loader_has_the_generator_of_its_data_set_seeded() -> None:
    class Draws(IterableDataset[float]):
        generator = torch.Generator()

        def __iter__(self) -> Iterator[torch.Tensor]:
            yield torch.rand((), generator=self.generator)

    loader = EpochLoader(DataLoader(Draws(), batch_size=1), seed=8)
    assert next(loader.open(2)).equal(torch.rand(1, generator=torch.Generator().manual_seed(10)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: train_loader(range(10), settings(world_size=2)), (3, 10, 4)),
        (lambda: eval_loader(range(10), settings(world_size=2)), (3, 10, 4)),
        (lambda: train_loader(Stream(), settings(world_size=2)), (None, None, 4)),
        (lambda: train_loader(range(10), settings(), sampler=[1, 2, 3]), (2, 3, 2)),
        (lambda: DataLoader(range(10), batch_size=3), (4, 10, 3)),
        (lambda: DataLoader(range(10), batch_sampler=[[1], [2, 3]]), (2, 10, None)),
        (lambda: [torch.ones(1), torch.ones(1)], (2, None, None)),
    ],
)
def test_sizes_are_those_of_a_whole_epoch(make: Any, expected: tuple[int | None, ...]) -> None:
    loader = EpochLoader(make())
    assert (loader.num_batches, loader.num_samples, loader.global_batch_size) == expected


def test_an_epoch_without_length_and_without_a_batch_is_an_error() -> None:
    loader = EpochLoader(train_loader(Stream(0), settings()))
    with pytest.raises(DataError, match="gave no batch in a whole epoch"):
        next(loader.open(0))


def test_a_generator_that_is_used_up_gives_an_empty_epoch() -> None:
    class Once(Stream):
        def __iter__(self) -> Iterator[int]:
            self.size, size = 0, self.size
            return iter(range(size))

    loader = EpochLoader(train_loader(Once(4), settings()))
    assert flat(loader.open(0)) == [0, 1, 2, 3]
    assert flat(loader.open(1)) == []


def test_an_epoch_resumed_at_its_end_may_be_empty() -> None:
    loader = EpochLoader(train_loader(Stream(4), settings()))
    assert flat(loader.open(0, samples_done=4)) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_dealt_batches_of_a_users_batch_sampler_go_on_by_batch(rank: int) -> None:
    dataset = Recorder()
    batches = [[index, index + 1] for index in range(0, 20, 2)]
    made = train_loader(DataLoader(dataset, batch_sampler=batches), settings(process_index=rank, world_size=2))
    assert flat(EpochLoader(made).open(0, samples_done=12, batches_done=3)) == sum(batches[6 + rank :: 2], [])
    assert min(dataset.fetched) >= 12


def test_any_iterable_of_batches_is_read() -> None:
    loader = EpochLoader([torch.tensor([1]), torch.tensor([2])])
    assert flat(loader.open(0, batches_done=1)) == [2]


def test_all_samples_of_a_training_batch_count() -> None:
    assert EpochLoader(train_loader(range(4), settings())).num_real(0) is None


# ---- another shape ----------------------------------------------------------------------------------


def of_random_sampler(world_size: int, batch_size: int) -> list[EpochLoader]:
    """One loader a rank over a torch sampler; on several ranks it has a generator of its own, on one it has none."""
    loaders = []
    for rank in range(world_size):
        sampler = RandomSampler(range(21), generator=torch.Generator().manual_seed(5) if world_size > 1 else None)
        how = settings(batch_size=batch_size, world_size=world_size, process_index=rank, use_seedable_sampler=False)
        dealt = how.dealt(sampler, batch_size=batch_size, tail=Tail.REPEAT if world_size > 1 else Tail.SHORT)
        loaders.append(EpochLoader(DataLoader(range(21), batch_sampler=dealt)))  # type: ignore[arg-type]
    return loaders


@pytest.mark.parametrize(("before", "after"), [((1, 4), (2, 3)), ((2, 3), (1, 5)), ((1, 6), (1, 5)), ((2, 2), (2, 5))])
def test_a_drawn_order_goes_on_at_another_number_of_processes(before: Any, after: Any) -> None:
    torch.manual_seed(1)
    then = of_random_sampler(*before)
    batches = [loader.open(0) for loader in then]
    seen = [sample for _ in range(2) for rank in batches for sample in next(rank).tolist()]
    order, done = then[0].order(), len(seen)
    torch.manual_seed(2)
    for loader in of_random_sampler(*after):
        loader.load_order(order)
        seen += flat(loader.open(0, samples_done=done))
    assert sorted(set(seen)) == list(range(21))
    round_size = after[0] * after[1]
    assert len(seen) - 21 == (-(21 - done) % round_size if after[0] > 1 else 0)  # duplicates that even the last round


def test_an_order_is_kept_over_a_second_resume_at_another_shape() -> None:
    def grouped(size: int) -> EpochLoader:
        sampler = LengthGroupedSampler(size, lengths=list(range(40)))
        return EpochLoader(train_loader(range(40), settings(batch_size=size), sampler=sampler))

    first, seen = grouped(8), list[int]()
    whole, order = flat(first.open(0)), first.order()
    for size in (8, 3, 5):
        torch.manual_seed(size)
        loader = grouped(size)
        loader.load_order(order)
        seen += next(loader.open(0, samples_done=len(seen), batches_done=1)).tolist()
        order = loader.order()
    assert seen == whole[:16]


@pytest.mark.parametrize("samples_done", [0, 6, 7, 21])
def test_what_remains_is_counted_in_samples_whatever_was_dealt_before(samples_done: int) -> None:
    own = RandomSampler(range(21), replacement=True)
    for data, sampler in ((range(21), own), (Numbered(21), None)):
        loader = EpochLoader(train_loader(data, settings(batch_size=4), sampler=sampler))
        assert loader.starts_anywhere
        assert loader.remaining(samples_done=samples_done, batches_done=99) == -(-(21 - samples_done) // 4)
