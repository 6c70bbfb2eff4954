"""Ranks are threads here, which step together as an average of gradients makes processes do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hftrain.core.agreement import SharedInterrupts
from hftrain.core.interrupts import Interrupts, RandomStates, StopAsked
from hftrain.hardware.notes import OwnNotes


class LateNotes(OwnNotes):
    """Notes that one rank finds only after a while."""

    def __init__(self, notes: OwnNotes, seconds: float) -> None:
        self._notes, self._seconds = notes, seconds
        self._found_at: dict[str, float] = {}

    def put(self, name: str, text: str) -> None:
        self._notes.put(name, text)

    def read(self, name: str) -> str | None:
        text = self._notes.read(name)
        if text is None or time.monotonic() - self._found_at.setdefault(name, time.monotonic()) < self._seconds:
            return None
        return text


def together(
    step: Callable[[SharedInterrupts, int, int], Any], *, num_steps: int, late_s: float = 0.0, **settings: Any
) -> list[Any]:
    """Run the same steps on two ranks, each kept from going ahead; return (step, outcome) of each rank's end."""
    notes, ends = OwnNotes(), [None, None]
    barrier = threading.Barrier(2, timeout=30)

    def rank(index: int) -> None:
        own = LateNotes(notes, late_s) if index and late_s else notes
        interrupts = SharedInterrupts(own, rank=index, world_size=2, **settings)
        with interrupts.heard():
            for number in range(num_steps):
                barrier.wait()
                try:
                    outcome = step(interrupts, index, number)
                except StopAsked as stop:
                    outcome = stop.code
                if outcome is not None:
                    ends[index] = (number, outcome, interrupts.code)
                    return

    threads = [threading.Thread(target=rank, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


class TellingNotes(OwnNotes):
    """Notes that do something when a proposal was put there."""

    then: Callable[[], Any] | None = None

    def put(self, name: str, text: str) -> None:
        super().put(name, text)
        then = self.then
        if name.startswith("proposal/") and then is not None:
            self.then = None
            then()


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("seconds", [0.001, 0.2])
def test_both_stop_after_the_same_step_whoever_was_asked(asked: int, seconds: float) -> None:
    def step(interrupts: SharedInterrupts, index: int, number: int) -> Any:
        if (index, number) == (asked, 3):
            interrupts.ask(143)
        time.sleep(seconds)
        return interrupts.after_step()

    first, second = together(step, num_steps=20_000)
    assert first == second
    assert first[1:] == ("stop", 143)


def test_a_note_that_comes_late_stops_nobody_alone() -> None:
    def step(interrupts: SharedInterrupts, index: int, number: int) -> Any:
        if (index, number) == (0, 0):
            interrupts.ask(143)  # nothing is known of the pace then: the very next tick is proposed
        time.sleep(0.15)
        return interrupts.after_step()

    first, second = together(step, num_steps=200, late_s=0.5)
    assert first == second
    assert first[0] > 2


def test_steps_that_become_slow_are_noticed() -> None:
    began = []

    def step(interrupts: SharedInterrupts, index: int, number: int) -> Any:
        if (index, number) == (0, 1000):
            interrupts.ask(143)
            began.append(time.monotonic())
        time.sleep(0.0005 if number < 1200 else 0.4)
        return interrupts.after_step()

    first, second = together(step, num_steps=5000)
    assert first == second
    assert first[0] < 1220


def test_both_save_after_the_same_step_by_the_clock_of_the_first() -> None:
    def step(interrupts: SharedInterrupts, index: int, number: int) -> Any:
        time.sleep(0.01)
        return interrupts.after_step()

    first, second = together(step, num_steps=5000, save_s=0.1)
    assert first == second
    assert first[1:] == ("save", None)


def test_both_leave_an_evaluation_after_the_same_batch() -> None:
    def step(interrupts: SharedInterrupts, index: int, number: int) -> Any:
        if (index, number) == (1, 3):
            interrupts.ask(130)
        interrupts.arm()
        time.sleep(0.02)
        interrupts.after_evaluation_batch(is_shared=True)
        return None

    first, second = together(step, num_steps=2000)
    assert first == second
    assert first[1:] == (130, 130)


def test_an_evaluation_that_cannot_be_left_hands_the_stop_on_to_the_step() -> None:
    def step(interrupts: SharedInterrupts, index: int, number: int) -> Any:
        if (index, number) == (1, 3):
            interrupts.ask(143)
        time.sleep(0.02)
        if number % 500:
            return interrupts.after_evaluation_batch(is_shared=True)
        return interrupts.after_step()

    first, second = together(step, num_steps=2000)
    assert first == second == (500, "stop", 143)


def test_at_the_end_all_stop_whom_one_was_asked() -> None:
    interrupts = SharedInterrupts(OwnNotes(), rank=1, world_size=2)
    interrupts.check_together(lambda code: [None, code])
    interrupts.ask(143)
    interrupts.check()  # alone it goes on
    with pytest.raises(StopAsked) as caught:
        interrupts.check_together(lambda code: [None, code])
    assert caught.value.code == 143


def test_a_proposal_is_decided_though_the_first_rank_comes_to_its_tick_while_it_is_made() -> None:
    notes = TellingNotes()
    first, second = (SharedInterrupts(notes, rank=rank, world_size=2) for rank in range(2))
    training = threading.Thread(target=first.after_step)
    notes.then = training.start
    with first.heard(), second.heard():
        first.ask(143)
        assert wait_for(notes, "decision/1") is not None
        training.join()


def test_a_save_that_was_decided_is_not_lost_to_a_stop_that_is_proposed_before_a_slow_rank_comes_to_it() -> None:
    notes = OwnNotes()
    first = SharedInterrupts(notes, rank=0, world_size=2, save_s=0.0)
    second = SharedInterrupts(notes, rank=1, world_size=2)
    with first.heard(), second.heard():
        wait_for(notes, "seen/1/1")
        assert first.after_step() == "save"
        first.ask(143)
        wait_for(notes, "proposal/2")
        time.sleep(0.3)  # the second rank looks
        assert second.after_step() == "save"


def test_random_states_are_read_before_a_step_only_where_the_run_can_stop_inside_it() -> None:
    states = RandomStates(take=lambda: "state")
    assert Interrupts(random_states=states).before_drawing() == "state"
    assert SharedInterrupts(OwnNotes(), rank=1, world_size=2, random_states=states).before_drawing() is None


def wait_for(notes: OwnNotes, name: str) -> str | None:
    until = time.monotonic() + 10.0
    while notes.read(name) is None and time.monotonic() < until:
        time.sleep(0.01)
    return notes.read(name)
