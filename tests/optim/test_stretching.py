"""Schedules whose end moves while they are followed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hftrain.optim.schedulers import get_constant_schedule, get_scheduler
from hftrain.optim.stretching import Stretch, is_stretchable, move_end, stretch, stretch_of, unstretched

NAMES = ["linear", "cosine", "polynomial", "cosine_with_min_lr", "warmup_stable_decay", "inverse_sqrt"]
OPTIONS: dict[str, Any] = {"cosine_with_min_lr": {"min_lr": 0.1}, "warmup_stable_decay": {"num_decay_steps": 30}}


def scheduler(name: str = "linear", length: int = 100, warmup: int = 10) -> Any:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return get_scheduler(name, optimizer, warmup, length, OPTIONS.get(name))


def rates(schedule: Any, num_steps: int) -> list[float]:
    found = []
    for _ in range(num_steps):
        schedule.optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [45, 100, 250])
@pytest.mark.parametrize("at", [4, 40])
def test_a_rate_goes_on_where_it_is_and_ends_where_it_would_have(name: str, end: int, at: int) -> None:
    whole = rates(scheduler(name), 100)
    moved = scheduler(name)
    found = rates(moved, at)
    move_end(moved, length=100, end=end)
    found += rates(moved, end - at)
    assert found[:at] == whole[:at]
    assert found[-1] == whole[-1]
    ratio = (100 - at) / (end - at)
    largest = max(abs(b - a) for a, b in zip(whole, whole[1:], strict=False))
    assert max(abs(b - a) for a, b in zip(found, found[1:], strict=False)) <= largest * max(ratio, 1) + 1e-12


def test_an_end_moves_twice() -> None:
    by = unstretched(100).moved(60, at=20).moved(200, at=40)
    assert by == Stretch(((0, 0.0), (20, 20.0), (40, 60.0), (200, 100.0)))
    assert [by(step) for step in (0, 10, 20, 30, 40, 120, 200, 203)] == [0, 10, 20, 40, 60, 80, 100, 103]
    assert (by.end, by.length) == (200, 100)


def test_a_state_holds_nothing_of_it_and_the_same_stretch_goes_on_from_it() -> None:
    moved = scheduler()
    rates(moved, 40)
    move_end(moved, length=100, end=60)
    rates(moved, 7)
    again = scheduler()
    again.load_state_dict(moved.state_dict())
    by = stretch_of(moved)
    assert by is not None
    stretch(again, by)
    assert again.state_dict() == moved.state_dict() == {**moved.state_dict(), "lr_lambdas": [{}]}
    assert rates(again, 13) == rates(moved, 13)


def test_a_schedule_that_has_ended_stays() -> None:
    ended = scheduler()
    rates(ended, 100)
    move_end(ended, length=100, end=150)
    assert stretch_of(ended) is None


def test_only_the_documented_curves_are_stretched() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    table = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [1.0, 0.5][step])
    assert not is_stretchable(table)
    assert not is_stretchable(torch.optim.lr_scheduler.StepLR(optimizer, 3))
    assert is_stretchable(get_constant_schedule(optimizer))
    assert is_stretchable(scheduler())
