"""Who gets which samples, in which order, from which position."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler, RandomSampler, Sampler

from hftrain.data.dealing import Tail
from hftrain.data.dealt import DealtSampler
from hftrain.data.samplers import EpochBatchSampler, EvalBatchSampler, epoch_order
from hftrain.errors import DataError

SIZES = (1, 2, 5, 7, 12, 13, 24, 50)
BATCH_SIZES = (1, 2, 3, 4, 8)
WORLD_SIZES = (1, 2, 3)
FLAGS = tuple(product((False, True), (False, True)))


def accelerate_batches(
    num_samples: int,
    *,
    batch_size: int,
    drop_last: bool,
    even_batches: bool,
    rank: int,
    world: int,
    split: bool = False,
) -> list[list[int]]:
    """What Accelerate deals; it leaves a batch sampler as it is on one process."""
    sampler = SeedableRandomSampler(range(num_samples), data_seed=3, generator=torch.Generator())
    sampler.set_epoch(2)
    batches = BatchSampler(sampler, batch_size, drop_last)
    if world == 1:
        return list(batches)
    return list(BatchSamplerShard(batches, world, rank, split_batches=split, even_batches=even_batches))


def ranks(num_samples: int, *, batch_size: int, world: int, **options: object) -> list[EpochBatchSampler]:
    return [
        EpochBatchSampler(num_samples, batch_size=batch_size, seed=3, process_index=rank, world_size=world, **options)
        for rank in range(world)
    ]


def consume(samplers: list[EpochBatchSampler], num_batches: int | None = None) -> list[int]:
    """Take batches of all ranks in the order of time; return the samples."""
    columns = [list(sampler)[:num_batches] for sampler in samplers]
    depth = max(len(column) for column in columns)
    return [
        index for step in range(depth) for column in columns for batch in column[step : step + 1] for index in batch
    ]


@pytest.mark.parametrize("world", WORLD_SIZES)
@pytest.mark.parametrize(("drop_last", "even_batches"), FLAGS)
def test_batches_are_those_that_accelerate_deals(world: int, drop_last: bool, even_batches: bool) -> None:
    for num_samples, batch_size, rank in product(SIZES, BATCH_SIZES, range(world)):
        options = {"batch_size": batch_size, "drop_last": drop_last, "even_batches": even_batches}
        sampler = EpochBatchSampler(num_samples, seed=3, process_index=rank, world_size=world, **options)
        sampler.set_position(2)
        assert list(sampler) == accelerate_batches(num_samples, rank=rank, world=world, **options), (
            num_samples,
            batch_size,
            rank,
        )


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(("drop_last", "even_batches"), FLAGS)
def test_a_divided_batch_is_accelerates_split_batch(world: int, drop_last: bool, even_batches: bool) -> None:
    for num_samples, share, rank in product(SIZES, (1, 2, 4), range(world)):
        flags = {"drop_last": drop_last, "even_batches": even_batches}
        sampler = EpochBatchSampler(
            num_samples, batch_size=share, seed=3, process_index=rank, world_size=world, **flags
        )
        sampler.set_position(2)
        expected = accelerate_batches(
            num_samples, batch_size=share * world, rank=rank, world=world, split=True, **flags
        )
        assert list(sampler) == expected, (num_samples, share, rank)


@pytest.mark.parametrize("world", WORLD_SIZES)
@pytest.mark.parametrize(("drop_last", "even_batches"), FLAGS)
def test_another_samplers_indices_are_dealt_as_accelerate_does(world: int, drop_last: bool, even_batches: bool) -> None:
    tail = Tail.DROP if drop_last else Tail.REPEAT if even_batches and world > 1 else Tail.SHORT
    for num_samples, batch_size, rank in product(SIZES, BATCH_SIZES, range(world)):
        source = SeedableRandomSampler(range(num_samples), data_seed=3, generator=torch.Generator())
        sampler = DealtSampler(source, batch_size=batch_size, tail=tail, seed=0, process_index=rank, world_size=world)
        sampler.set_position(2)
        expected = accelerate_batches(
            num_samples, batch_size=batch_size, drop_last=drop_last, even_batches=even_batches, rank=rank, world=world
        )
        assert len(sampler) == len(expected)
        assert list(sampler) == expected


@pytest.mark.parametrize(("drop_last", "even_batches"), FLAGS)
def test_length_is_of_the_whole_epoch_and_remaining_from_the_position(drop_last: bool, even_batches: bool) -> None:
    for num_samples, world, done in product((1, 7, 24), WORLD_SIZES, (0, 1, 6, 7, 30)):
        for sampler in ranks(num_samples, batch_size=2, world=world, drop_last=drop_last, even_batches=even_batches):
            whole = len(list(sampler))
            sampler.set_position(0, done)
            assert (len(sampler), sampler.remaining()) == (whole, len(list(sampler)))


def test_order_is_torchs_permutation_of_seed_plus_epoch_and_draws_nothing_from_the_default_generator() -> None:
    before = torch.get_rng_state()
    order = epoch_order(10, seed=40, epoch=2, shuffle=True)
    assert order.equal(torch.randperm(10, generator=torch.Generator().manual_seed(42)))
    assert epoch_order(4, seed=40, epoch=2, shuffle=False).tolist() == [0, 1, 2, 3]
    assert torch.get_rng_state().equal(before)


def test_default_device_does_not_change_the_order() -> None:
    expected = epoch_order(10, seed=1, epoch=0, shuffle=True)
    with torch.device("meta"):
        assert epoch_order(10, seed=1, epoch=0, shuffle=True).equal(expected)


SHAPES = ((1, 1), (4, 1), (2, 2), (3, 3), (5, 2))


@pytest.mark.parametrize("before", SHAPES)
@pytest.mark.parametrize("after", SHAPES)
def test_another_shape_goes_on_without_repeating_or_leaving_out_a_sample(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    for num_samples, steps, even in product((7, 30, 61), (0, 1, 3), (False, True)):
        old = ranks(num_samples, batch_size=before[0], world=before[1], even_batches=even)
        new = ranks(num_samples, batch_size=after[0], world=after[1], even_batches=even)
        seen = consume(old, steps)
        for sampler in new:
            sampler.set_position(0, len(seen))
        seen += consume(new)
        order = epoch_order(num_samples, seed=3, epoch=0, shuffle=True).tolist()
        # What follows the whole order is the documented filling-up of the last round.
        assert seen[:num_samples] == order
        assert even or len(seen) == num_samples


def test_three_shapes_in_one_epoch_see_every_sample_once() -> None:
    seen: list[int] = []
    for batch_size, world, steps in ((4, 2, 2), (3, 1, 5), (2, 3, None)):
        samplers = ranks(101, batch_size=batch_size, world=world, even_batches=False)
        for sampler in samplers:
            sampler.set_position(1, len(seen))
        seen += consume(samplers, steps)
    assert seen == epoch_order(101, seed=3, epoch=1, shuffle=True).tolist()


@pytest.mark.parametrize("world", WORLD_SIZES)
def test_the_same_shape_goes_on_with_exactly_the_batches_that_were_left(world: int) -> None:
    for step, sampler in product(range(5), ranks(31, batch_size=3, world=world)):
        sampler.set_position(0)
        whole = list(sampler)
        sampler.set_position(0, step * sampler.global_batch_size)
        assert list(sampler) == whole[step:]


def test_a_position_behind_the_filled_up_last_batch_is_the_epochs_end() -> None:
    for sampler in ranks(7, batch_size=2, world=2):
        sampler.set_position(0, 8)
        assert list(sampler) == []


def test_ten_million_samples_are_skipped_without_making_python_ints_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the order was turned into a list of ints")

    monkeypatch.setattr(torch.Tensor, "tolist", refuse)
    sampler = EpochBatchSampler(10_000_100, batch_size=8, seed=0)
    sampler.set_position(0, 10_000_000)
    assert [len(batch) for batch in sampler] == [8] * 12 + [4]


def test_a_sequential_order_is_never_materialised() -> None:
    sampler = EpochBatchSampler(10**15, batch_size=2, seed=0, shuffle=False)
    sampler.set_position(0, 10**15 - 3)
    assert list(iter(sampler)) == [[10**15 - 3, 10**15 - 2], [10**15 - 1]]


def test_an_iteration_keeps_the_position_it_started_at() -> None:
    sampler = EpochBatchSampler(6, batch_size=2, seed=0, shuffle=False)
    batches = iter(sampler)
    sampler.set_position(1, 4)
    assert list(batches) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_given_order_is_dealt(as_tensor: bool) -> None:
    def rotated(epoch: int) -> list[int] | torch.Tensor:
        order = [(index + epoch) % 5 for index in range(5)]
        return torch.tensor(order) if as_tensor else order

    sampler = EpochBatchSampler(5, batch_size=2, seed=0, order=rotated, world_size=2, process_index=1)
    sampler.set_epoch(3)
    assert list(sampler) == [[0, 1], [4, 0]]


def test_a_given_order_of_another_length_is_an_error() -> None:
    sampler = EpochBatchSampler(5, batch_size=2, seed=0, order=lambda epoch: [0, 1])
    with pytest.raises(DataError, match="gave 2 indices for a data set of 5 samples"):
        iter(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "Set batch_size=1 or more"),
        ({"batch_size": 1, "process_index": 2, "world_size": 2}, "ranks go from 0 to 1"),
    ],
)
def test_impossible_sizes_are_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        EpochBatchSampler(5, seed=0, **options)


def test_no_samples_and_a_negative_position_are_errors() -> None:
    with pytest.raises(DataError, match="0 samples"):
        EpochBatchSampler(0, batch_size=1, seed=0)
    with pytest.raises(DataError, match="0 samples"):
        EvalBatchSampler(0, batch_size=1)
    with pytest.raises(DataError, match="samples_done=-1"):
        EpochBatchSampler(3, batch_size=1, seed=0).set_position(0, -1)


@pytest.mark.parametrize("world", WORLD_SIZES)
def test_evaluation_sees_every_sample_once_and_gathers_in_the_data_sets_order(world: int) -> None:
    for num_samples, batch_size in product(SIZES, BATCH_SIZES):
        samplers = [
            EvalBatchSampler(num_samples, batch_size=batch_size, process_index=rank, world_size=world)
            for rank in range(world)
        ]
        columns = [list(sampler) for sampler in samplers]
        assert {len(column) for column in columns} == {len(samplers[0])}
        gathered = [
            index
            for step in range(len(samplers[0]))
            for sampler, column in zip(samplers, columns, strict=True)
            for index in column[step][: sampler.num_real(step)]
        ]
        assert gathered == list(range(num_samples))
        assert all(batch for column in columns for batch in column)


def test_a_rank_for_which_nothing_is_left_gets_one_filler_sample() -> None:
    sampler = EvalBatchSampler(5, batch_size=2, process_index=1, world_size=2)
    assert (list(sampler), [sampler.num_real(index) for index in (0, 1)]) == ([[2, 3], [0]], [2, 0])


def test_drop_last_in_evaluation_leaves_out_the_last_batch_that_is_not_full() -> None:
    sampler = EvalBatchSampler(5, batch_size=2, drop_last=True)
    assert list(sampler) == [[0, 1], [2, 3]]


class Batches(Sampler[list[int]]):
    """A batch sampler of a user."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0], [1, 2], [3, 4, 5], [6]] + [[7, 8]])

    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("tail", "second"),
    [
        (Tail.DROP, [[1, 2], [6]]),
        (Tail.SHORT, [[1, 2], [6]]),
        (Tail.REPEAT, [[1, 2], [6], [0]]),
        (Tail.FILLER, [[1, 2], [6], [7]]),
    ],
)
def test_whole_batches_of_a_batch_sampler_are_dealt_in_turn(tail: Tail, second: list[list[int]]) -> None:
    sampler = DealtSampler(Batches(), batch_size=None, tail=tail, seed=0, process_index=1, world_size=2)
    assert (list(sampler), len(sampler)) == (second, len(second))


def test_fillers_of_dealt_batches_count_as_no_sample() -> None:
    sampler = DealtSampler(Batches(), batch_size=None, tail=Tail.FILLER, seed=0, process_index=1, world_size=2)
    assert [sampler.num_real(index) for index, _ in enumerate(sampler)] == [2, 1, 0]


def test_ranks_share_the_order_of_a_random_sampler_without_generator() -> None:
    def dealt(rank: int) -> list[list[int]]:
        torch.manual_seed(rank)
        deal = {"batch_size": 2, "tail": Tail.SHORT, "process_index": rank, "world_size": 2}
        sampler = DealtSampler(RandomSampler(range(12)), seed=5, is_seeded=True, **deal)
        sampler.set_position(1)
        return list(sampler)

    assert sorted(index for rank in range(2) for batch in dealt(rank) for index in batch) == list(range(12))


def test_one_process_leaves_a_random_sampler_its_own_draw() -> None:
    torch.manual_seed(0)
    expected = list(BatchSampler(RandomSampler(range(10)), 4, False))
    torch.manual_seed(0)
    assert list(DealtSampler(RandomSampler(range(10)), batch_size=4, tail=Tail.SHORT, seed=1)) == expected


def test_a_resumed_sampler_fills_up_with_the_epochs_first_samples() -> None:
    def dealer() -> DealtSampler:
        return DealtSampler(range(13), batch_size=3, tail=Tail.REPEAT, seed=0, process_index=1, world_size=2)

    for step in range(4):
        resumed = dealer()
        resumed.set_position(0, step * resumed.round_size)
        assert list(resumed) == list(dealer())[step:]


def test_a_batch_sampler_in_the_place_of_a_sampler_is_an_error() -> None:
    with pytest.raises(DataError, match="Batches gives .* where an index is needed"):
        list(DealtSampler(Batches(), batch_size=2, tail=Tail.SHORT, seed=0))
