"""One process reads and sends every process its part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from hftrain.data.dispatch import Exchange, concatenated, size_of, sliced
from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import eval_loader, train_loader
from hftrain.data.settings import LoaderSettings
from hftrain.errors import DataError
from tests.data.threads import ThreadExchange, in_ranks


class Numbers(Dataset[Tensor]):
    """Refuses to be read twice, so that only one rank may."""

    def __init__(self, size: int, fails_at: int | None = None) -> None:
        self.size, self.fails_at, self.read = size, fails_at, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        if index == self.fails_at:
            raise OSError("disk on fire")
        self.read.append(index)
        return torch.tensor(index)


class Stream(IterableDataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))


def settings(exchange: Exchange | None, rank: int, world: int, **changes: Any) -> LoaderSettings:
    how: dict[str, Any] = {"batch_size": 2, "seed": 3, "dispatch_batches": True} | changes
    return LoaderSettings(**how, process_index=rank, world_size=world, exchange=exchange)


def dealt(data: Any, world: int = 2, *, make: Any = train_loader, **changes: Any) -> list[list[list[int]]]:
    """What each rank gets of an epoch; in evaluation nothing of a batch of which no sample counts."""

    def read(exchange: ThreadExchange) -> list[list[int]]:
        source = EpochLoader(make(data, settings(exchange, exchange.rank, world, **changes)))
        batches = [batch.tolist() for batch in source.open(0)]
        assert source.num_batches in (None, len(batches))
        if make is train_loader:
            return batches
        sizes = [source.num_real(index) for index in range(len(batches))]
        assert all(size in (0, len(batch)) for size, batch in zip(sizes, batches, strict=True))  # no filler among them
        return [batch[:size] for batch, size in zip(batches, sizes, strict=True)]

    return in_ranks(read, world)


def test_only_the_main_process_reads() -> None:
    data = Numbers(8)
    first, second = dealt(data)
    assert sorted(data.read) == list(range(8))
    assert sorted(index for batch in first + second for index in batch) == list(range(8))


def test_whole_batches_are_dealt_in_the_order_of_one_process_that_takes_all() -> None:
    one = [batch.tolist() for batch in EpochLoader(train_loader(Numbers(12), settings(None, 0, 1))).open(0)]
    assert dealt(Numbers(12)) == [one[::2], one[1::2]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (5, [[[0, 1], [4]], [[2, 3], [0]]]),
        (6, [[[0, 1], [4]], [[2, 3], [5]]]),
        (7, [[[0, 1], [4, 5]], [[2, 3], [6, 0]]]),
        (1, [[[0]], [[0]]]),
    ],
)
def test_a_last_round_is_divided_evenly_and_filled_up(size: int, expected: list[list[list[int]]]) -> None:
    assert dealt(Stream(size), dispatch_batches=None) == expected


def test_drop_last_leaves_a_last_round_out() -> None:
    assert dealt(Stream(7), drop_last=True) == [[[0, 1]], [[2, 3]]]


def test_split_batches_divides_each_batch() -> None:
    assert dealt(Stream(10), split_batches=True, batch_size=4) == [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], [9]]]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("size", [1, 4, 5, 7, 12])
@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("kind", [Numbers, Stream, lambda size: DataLoader(Numbers(size), batch_size=6)])
def test_evaluation_counts_every_sample_once_and_in_order(kind: Any, is_split: bool, size: int, world: int) -> None:
    ranks = dealt(kind(size), world, make=eval_loader, split_batches=is_split, batch_size=6)
    assert [index for step in zip(*ranks, strict=True) for batch in step for index in batch] == list(range(size))


def test_a_run_goes_on_behind_the_samples_that_were_done() -> None:
    def read(exchange: ThreadExchange, done: int) -> list[list[int]]:
        source = EpochLoader(train_loader(Numbers(12), settings(exchange, exchange.rank, 2)))
        assert source.remaining(samples_done=4, batches_done=1) == 2
        return [batch.tolist() for batch in source.open(1, samples_done=4 * done, batches_done=done)]

    whole = in_ranks(lambda exchange: read(exchange, 0), 2)
    assert in_ranks(lambda exchange: read(exchange, 1), 2) == [rank[1:] for rank in whole]


def test_ranks_hear_why_the_main_process_failed() -> None:
    def read(exchange: ThreadExchange) -> str:
        loader = train_loader(Numbers(8, fails_at=5), settings(exchange, exchange.rank, 2))
        with pytest.raises((OSError, DataError)) as caught:
            list(loader)
        return str(caught.value)

    assert in_ranks(read, 2) == [
        "disk on fire",
        "The main process, which reads the data for all, failed: OSError: disk on fire",
    ]


def test_texts_padded_to_different_lengths_are_dealt_whole() -> None:
    def read(exchange: ThreadExchange) -> list[list[int]]:
        data = [torch.ones(length) for length in (1, 2, 3, 4, 5)]
        how = settings(exchange, exchange.rank, 2, use_seedable_sampler=False)
        loader = train_loader(data, how, collate_fn=lambda rows: pad_sequence(rows, batch_first=True), sampler=range(5))
        return [list(batch.shape) for batch in loader]

    assert in_ranks(read, 2) == [[[2, 2], [1, 5]], [[2, 4], [1, 5]]]


def test_a_users_loader_is_dispatched_with_its_settings() -> None:
    assert dealt(DataLoader(Numbers(6), batch_size=3)) == [[[0, 1, 2]], [[3, 4, 5]]]


class Pair(NamedTuple):
    x: Tensor
    texts: list[str]


def test_nested_batches_are_joined_and_cut_with_the_lists_of_their_samples() -> None:
    batch = {"pair": Pair(torch.arange(2), ["a", "b"]), "rows": [torch.zeros(2, 3)], "scale": torch.tensor(1.5)}
    joined = concatenated([batch, batch])
    assert (size_of(joined), joined["pair"].texts, joined["rows"][0].shape) == (4, ["a", "b", "a", "b"], (4, 3))
    part = sliced(joined, 1, 3, 4)
    assert (part["pair"].x.tolist(), part["pair"].texts, part["scale"].item()) == ([1, 0], ["b", "a"], 1.5)


def test_a_batch_without_tensors_is_an_error() -> None:
    with pytest.raises(DataError, match="type dict holds none"):
        size_of({"text": ["a"]})
