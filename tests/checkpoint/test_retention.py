"""Which checkpoints may go."""

from __future__ import annotations

import pytest

from hftrain.checkpoint.retention import Candidate, every, limit, named, surplus

CANDIDATES = [Candidate(name=f"checkpoint-{step}", step=step) for step in (1, 2, 3, 4)]


def gone(count: int, best: str | None = None, protected: tuple[str, ...] = ()) -> list[int]:
    return [one.step for one in surplus(CANDIDATES, [limit(count, best=best), named(protected)])]


@pytest.mark.parametrize(("count", "steps"), [(1, [1, 2, 3]), (2, [1, 2]), (4, []), (9, [])])
def test_the_newest_stay(count: int, steps: list[int]) -> None:
    assert gone(count) == steps


@pytest.mark.parametrize(
    ("count", "best", "steps"),
    [
        (1, "checkpoint-2", [1, 3]),
        (2, "checkpoint-2", [1, 3]),
        (3, "checkpoint-2", [1]),
        (1, "checkpoint-4", [1, 2, 3]),
        (2, "checkpoint-4", [1, 2]),
        (2, "checkpoint-9", [1, 2]),
    ],
)
def test_the_best_counts_as_one_of_them_and_stays(count: int, best: str, steps: list[int]) -> None:
    assert gone(count, best) == steps


def test_what_any_policy_keeps_stays() -> None:
    assert gone(1, protected=("checkpoint-1",)) == [2, 3]


@pytest.mark.parametrize(("num_steps", "steps"), [(1, []), (2, [1, 3]), (3, [1, 2]), (9, [1, 2, 3])])
def test_those_of_every_so_many_steps_stay_beside_the_newest(num_steps: int, steps: list[int]) -> None:
    assert [one.step for one in surplus(CANDIDATES, [limit(1, best=None), every(num_steps)])] == steps


def test_without_checkpoints_there_is_nothing_to_delete() -> None:
    assert surplus([], [limit(1, best="checkpoint-1")]) == []
