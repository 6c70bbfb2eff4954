"""A resume of an iterable data set that workers read skips inside each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import train_loader
from hftrain.data.places import Place
from hftrain.data.settings import LoaderSettings
from hftrain.data.streams import StreamLoader, turns_at

LENGTHS = (3, 9)


class Uneven(IterableDataset[Tensor]):
    """The first of two workers has fewer samples; each one is augmented."""

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        assert worker is not None
        for number in range(LENGTHS[worker.id]):
            yield torch.stack([torch.tensor(100.0 * worker.id + number), torch.rand(())])


def source(**changes: object) -> EpochLoader:
    how = LoaderSettings(**{"batch_size": 2, "seed": 3, "num_workers": 2} | changes)  # type: ignore[arg-type]
    return EpochLoader(train_loader(Uneven(), how), batches_per_step=2)


def place_behind(loader: EpochLoader, batches: Iterator[Tensor], num_batches: int) -> Place:
    for _ in range(num_batches):
        next(batches)
    place = loader.place(is_inside=True)
    assert place is not None
    return place


@pytest.mark.parametrize("cut", range(1, 8))
def test_the_rest_comes_in_the_order_it_had(cut: int) -> None:
    whole = list(source().open(1))
    first = source()
    place = place_behind(first, first.open(1), cut)
    again = source()
    again.load_place(place)
    rest = list(again.open(1, samples_done=2 * cut, batches_done=cut))
    assert len(whole) == 7
    assert len(rest) == 7 - cut
    assert all(torch.equal(one, other) for one, other in zip(whole[cut:], rest, strict=True))


def test_a_second_resume_counts_on_from_the_first() -> None:
    whole, first, second, third = list(source().open(0)), source(), source(), source()
    second.load_place(place_behind(first, first.open(0), 2))
    third.load_place(place_behind(second, second.open(0, samples_done=4, batches_done=2), 3))
    rest = list(third.open(0, samples_done=10, batches_done=5))
    assert all(torch.equal(one, other) for one, other in zip(whole[5:], rest, strict=True))


def test_batches_that_were_drawn_ahead_come_again() -> None:
    whole, first, again = list(source().open(0)), source(), source()
    batches = first.open(0)
    for _ in range(4):
        next(batches)
    again.load_place(first.place(is_inside=True, num_ahead=2))
    rest = list(again.open(0, samples_done=4, batches_done=2))
    assert all(torch.equal(one, other) for one, other in zip(whole[2:], rest, strict=True))


def test_persistent_workers_read_the_next_epoch_from_its_start() -> None:
    first, again = source(persistent_workers=True), source(persistent_workers=True)
    again.load_place(place_behind(first, first.open(0), 3))
    list(again.open(0, samples_done=6, batches_done=3))
    list(first.open(0))
    assert all(torch.equal(one, other) for one, other in zip(first.open(1), again.open(1), strict=True))


def test_with_other_workers_batches_are_read_again() -> None:
    first, again = source(), source(num_workers=1)
    place = place_behind(first, first.open(0), 1)
    again.load_place(place)
    assert turns_at(place, samples=2, batches=1, num_workers=1) is None
    assert [batch[0, 0].item() for batch in again.open(0, samples_done=2, batches_done=1)] == [2.0]


def test_who_iterates_over_the_loader_sees_batches() -> None:
    loader = source().loader
    assert isinstance(loader, StreamLoader)
    assert all(isinstance(batch, Tensor) for batch in loader)
    assert loader.given == [0, 1, 0, 1, 1, 1, 1]
