from __future__ import annotations

from typing import Any

import pytest

from hftrain.core.timing import StepTimes, TimedActions


class Clock:
    """Shows whole seconds, which pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += seconds


class Actions:
    """Take one second to log, two to evaluate, four to save; a row is taken half a second into its logging."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.times = clock, StepTimes(clock)
        self.rows: list[Any] = []
        self.step = 0

    def log(self, logs: dict[str, float]) -> None:
        self.clock.tick(0.5)
        self.rows.append(self.times.take(self.step))
        self.clock.tick(0.5)

    def evaluate(self, *, skip_scheduler: bool = False) -> None:
        self.clock.tick(2.0)

    def save(self) -> None:
        self.clock.tick(4.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_every_second_between_two_rows_is_counted_once(clock: Clock) -> None:
    actions = Actions(clock)
    timed, times = TimedActions(actions, actions.times), actions.times
    times.start(3)
    for step in (5, 9):
        list(times.waited_for(slow(clock, [1, 1])))
        clock.tick(10.0)
        actions.step = step
        timed.log({})
        timed.evaluate()
        timed.save()
    assert actions.rows == [
        {"data": 2.0, "compute": 10.0, "log": 0.5, "eval": 0.0, "save": 0.0, "steps": 2},
        {"data": 2.0, "compute": 10.0, "log": 1.0, "eval": 2.0, "save": 4.0, "steps": 4},
    ]


def slow(clock: Clock, seconds: list[int]) -> Any:
    for number in seconds:
        clock.tick(number)
        yield number


def test_a_row_that_is_not_the_loops_carries_nothing(clock: Clock) -> None:
    times = StepTimes(clock)
    assert times.take(1) is None
    times.make_due()
    assert times.take(1) is not None
    assert times.take(1) is None


def test_time_before_the_start_is_not_counted(clock: Clock) -> None:
    times = StepTimes(clock)
    clock.tick(50.0)
    times.start(7)
    times.make_due()
    clock.tick(1.0)
    row = times.take(8)
    assert row is not None
    assert (row["compute"], row["steps"]) == (1.0, 1)


def test_what_is_inside_another_part_belongs_to_that_one(clock: Clock) -> None:
    times = StepTimes(clock)
    with times.spent_on("eval"):
        clock.tick(1.0)
        with times.spent_on("log"):
            clock.tick(1.0)
    times.make_due()
    row = times.take(1)
    assert row is not None
    assert (row["eval"], row["log"]) == (2.0, 0.0)


def test_an_evaluation_that_fails_is_counted_all_the_same(clock: Clock) -> None:
    times = StepTimes(clock)

    def fail() -> None:
        with times.spent_on("eval"):
            clock.tick(3.0)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    times.make_due()
    row = times.take(1)
    assert row is not None
    assert row["eval"] == 3.0


def test_batches_are_drawn_no_earlier_than_they_are_asked_for(clock: Clock) -> None:
    drawn: list[int] = []

    def batches() -> Any:
        for number in range(3):
            drawn.append(number)
            yield number

    iterator = StepTimes(clock).waited_for(batches())
    assert drawn == []
    assert next(iterator) == 0
    assert drawn == [0]
