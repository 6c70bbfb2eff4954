"""What the time between two rows of a run was spent on. No device is asked: a clock is read, and that is all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from hftrain.core.ports import RunActions

_END = object()


class StepTimes:
    """Seconds by what they were spent on: waiting for data, logging, evaluating, saving, and computing, the rest.

    A device that computes on its own is waited for where a row is made, before it is logged: that is computing too.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._spent = dict.fromkeys(("data", "log", "eval", "save"), 0.0)
        self._part: str | None = None
        self._part_since = 0.0
        self._is_due = False
        self.start(0)

    def start(self, step: int) -> None:
        """Begin to count, at a step."""
        self._step, self._since = step, self._clock()

    def make_due(self) -> None:
        """Let the next row carry the seconds."""
        self._is_due = True

    def take(self, step: int) -> dict[str, float] | None:
        """Return the seconds since the last ones were taken, and the steps made in them; None if they are not due."""
        if not self._is_due:
            return None
        now = self._clock()
        if self._part is not None:
            self._spent[self._part] += now - self._part_since
            self._part_since = now
        compute = max(0.0, now - self._since - sum(self._spent.values()))
        row = {name: round(seconds, 6) for name, seconds in {"compute": compute, **self._spent}.items()}
        row["steps"] = step - self._step
        self._spent = dict.fromkeys(self._spent, 0.0)
        self._step, self._since, self._is_due = step, now, False
        return row

    @contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """Count the time inside for a part; what is inside another part belongs to that one."""
        if self._part is not None:
            yield
            return
        self._part, self._part_since = part, self._clock()
        try:
            yield
        finally:
            self._spent[part] += self._clock() - self._part_since
            self._part = None

    def waited_for(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, and count the time that each takes to come."""
        clock, iterator = self._clock, iter(batches)
        while True:
            since = clock()
            batch = next(iterator, _END)
            self._spent["data"] += clock() - since
            if batch is _END:
                return
            yield batch


class TimedActions:
    """What the loop asks for, with the time that it takes; a row of the loop carries the seconds."""

    def __init__(self, actions: RunActions, times: StepTimes) -> None:
        self._actions = actions
        self._times = times

    def log(self, logs: dict[str, float]) -> None:
        """Log one row."""
        self._times.make_due()
        with self._times.spent_on("log"):
            self._actions.log(logs)

    def evaluate(self, *, skip_scheduler: bool = False) -> None:
        """Evaluate."""
        with self._times.spent_on("eval"):
            self._actions.evaluate(skip_scheduler=skip_scheduler)

    def save(self) -> None:
        """Save a checkpoint."""
        with self._times.spent_on("save"):
            self._actions.save()
