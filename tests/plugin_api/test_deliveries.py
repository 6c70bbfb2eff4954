"""Whatever a service does, it is told every event that it takes: once, and in order."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hypothesis import given, settings
from hypothesis import strategies as st

from hftrain.plugin_api import worker
from hftrain.plugin_api.spool import Spool
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.worker import Delivery, Patience

FUZZ = int(os.environ.get("FUZZ", "1"))
SOME = settings(max_examples=60 * FUZZ, deadline=None, derandomize=FUZZ == 1, database=None)
NOW = Patience(first=0.0, most=0.0)
OUTAGES = st.lists(st.booleans(), max_size=40)
"""Of each call, whether the service is away; after them it is there."""


class Service(Tracker):
    """Is away in the calls that the outages say, refuses some steps for ever, and notes the others."""

    def __init__(self, outages: Iterator[bool], refused: frozenset[int] = frozenset()) -> None:
        self.outages, self.refused = outages, refused
        self.told: list[int | str] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if next(self.outages, False):
            raise ConnectionError("nobody is there")
        if step in self.refused:
            raise ValueError("not that one")
        self.told.append(step)

    def finish(self, status: str, error: str | None) -> None:
        self.told.append(status)


@contextmanager
def waiting_at_most(count: int) -> Iterator[None]:
    before, worker._MAX_WAITING = worker._MAX_WAITING, count
    yield
    worker._MAX_WAITING = before


def life(spool: Spool, service: Service, steps: Sequence[int], *, timeout_s: float, is_last: bool) -> None:
    """A process that logs these steps, and that its trackers may leave behind."""
    delivery = Delivery("fake", service, spool.path, patience=NOW)
    delivery.launch(Run(run_id="r"), last_seq=spool.last_seq)
    delivery.wait_for_start()
    for step in steps:
        delivery.offer(spool.append("log", step=step, data={"loss": 1.0}))
    if is_last:
        delivery.offer(spool.append("finish", step=len(steps), data={"status": "finished"}))
    delivery.close(timeout_s=timeout_s)
    assert delivery._thread is not None
    delivery._thread.join(10)
    assert not is_last or delivery.num_left == 0


@SOME
@given(outages=OUTAGES, lives=st.lists(st.integers(0, 12), min_size=1, max_size=4), most=st.integers(1, 6))
def test_after_any_outages_everything_was_told_in_order_and_once(
    outages: list[bool], lives: list[int], most: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, waiting_at_most(most):
        service, step = Service(iter(outages)), 0
        for count in lives:
            life(Spool(folder), service, range(step, step + count), timeout_s=0.0, is_last=False)
            step += count
        life(Spool(folder), service, [step], timeout_s=10, is_last=True)
        assert service.told == [*range(step + 1), "finished"]


@SOME
@given(refused=st.frozensets(st.sampled_from([0, 1, 2, 3, 5, 6, 8])), most=st.integers(1, 6))
def test_what_is_refused_is_left_out_and_nothing_else(refused: frozenset[int], most: int) -> None:
    with tempfile.TemporaryDirectory() as folder, waiting_at_most(most):
        service = Service(iter([]), refused)
        life(Spool(folder), service, range(10), timeout_s=10, is_last=True)
        assert service.told == [*(step for step in range(10) if step not in refused), "finished"]


@SOME
@given(
    outages=OUTAGES,
    rows=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    resumed=st.lists(st.integers(0, 9), max_size=4),
)
def test_steps_that_are_trained_again_are_told_once_where_none_was_told_before(
    outages: list[bool], rows: list[int], resumed: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool, step = Spool(folder), 0
        expected: list[int] = []
        for index, count in enumerate(rows):  # processes whose tracker never started
            if index and index <= len(resumed):
                step = min(step, resumed[index - 1])
                spool.append("resume", step=step)
                expected = [one for one in expected if one <= step]
            for _ in range(count):
                step += 1
                spool.append("log", step=step, data={"loss": 1.0})
                expected.append(step)
        service = Service(iter(outages))
        life(spool, service, [], timeout_s=10, is_last=True)
        assert service.told == [*expected, "finished"]
