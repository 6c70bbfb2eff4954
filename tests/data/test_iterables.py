"""Iterable data sets: this rank's part, epochs and positions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import IterableDataset

from hftrain.data.dealing import Deal, Tail
from hftrain.data.iterables import Filler, IterableShard, start_epoch


class Count(IterableDataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))


class SizedCount(Count):
    def __len__(self) -> int:
        return self.size


class Draws(IterableDataset[float]):
    """Random by a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __iter__(self) -> Iterator[float]:
        for _ in range(4):
            yield torch.rand((), generator=self.generator).item()


def shard(dataset: IterableDataset[int], *, share: int, rank: int, world: int, tail: Tail) -> IterableShard:
    return IterableShard(dataset, deal=Deal(share=share, process_index=rank, world_size=world, tail=tail), seed=7)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_training_samples_are_those_that_accelerate_deals(world: int, drop_last: bool) -> None:
    tail = Tail.DROP if drop_last else Tail.REPEAT
    for size, share, rank in product((1, 3, 4, 9, 13, 24), (1, 2, 4), range(world)):
        expected = IterableDatasetShard(
            Count(size), batch_size=share, drop_last=drop_last, num_processes=world, process_index=rank
        )
        assert list(shard(Count(size), share=share, rank=rank, world=world, tail=tail)) == list(expected)


@pytest.mark.parametrize("tail", list(Tail))
def test_length_is_the_number_of_samples_that_come(tail: Tail) -> None:
    for size, world in product((1, 4, 7, 12), (1, 2, 3)):
        for rank in range(world):
            part = shard(SizedCount(size), share=2, rank=rank, world=world, tail=tail)
            assert len(part) == sum(1 for _ in part)


def test_a_data_set_without_length_gives_none() -> None:
    part = shard(Count(3), share=1, rank=0, world=1, tail=Tail.SHORT)
    assert part.num_samples is None
    with pytest.raises(TypeError, match="Count has no length"):
        len(part)


def test_evaluation_sees_every_sample_once_and_marks_fillers() -> None:
    parts = [list(shard(Count(5), share=2, rank=rank, world=3, tail=Tail.FILLER)) for rank in range(3)]
    assert parts[:2] == [[0, 1], [2, 3]]
    assert parts[2] == [4]
    late = list(shard(Count(7), share=2, rank=2, world=3, tail=Tail.FILLER))
    assert late[:2] == [4, 5]
    assert isinstance(late[2], Filler)
    assert late[2].sample == 6


@pytest.mark.parametrize("world", [1, 2])
def test_another_shape_goes_on_without_repeating_or_leaving_out_a_sample(world: int) -> None:
    seen = list(range(6))
    parts = [shard(Count(20), share=2, rank=rank, world=world, tail=Tail.SHORT) for rank in range(world)]
    for part in parts:
        part.set_position(0, 6)
    assert sorted(seen + [sample for part in parts for sample in part]) == list(range(20))


def test_a_resumed_shard_fills_up_with_the_epochs_first_samples() -> None:
    whole = list(shard(Count(13), share=3, rank=1, world=2, tail=Tail.REPEAT))
    resumed = shard(Count(13), share=3, rank=1, world=2, tail=Tail.REPEAT)
    resumed.set_position(0, 12)
    assert list(resumed) == whole[6:]


def test_a_generator_attribute_is_seeded_with_seed_plus_epoch() -> None:
    part = shard(Draws(), share=1, rank=0, world=1, tail=Tail.SHORT)
    part.set_position(3)
    generator = torch.Generator().manual_seed(7 + 3)
    assert list(part) == [torch.rand((), generator=generator).item() for _ in range(4)]
    assert list(part)[0] != torch.rand((), generator=generator).item()


def test_set_epoch_goes_before_the_generator() -> None:
    class Told(Draws):
        epoch = None

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    dataset = Told()
    state = dataset.generator.get_state()
    start_epoch(dataset, epoch=4, seed=0)
    assert dataset.epoch == 4
    assert dataset.generator.get_state().equal(state)
