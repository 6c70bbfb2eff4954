"""How several processes stop, or save, after the same step although one of them was asked: without a collective.

Each process counts the places at which it could stop, its ticks: the end of a step, a batch of an evaluation. All have
the same ticks. Rank 0 proposes one that is some seconds ahead, and a thread on each rank looks out for proposals and
says that it has seen one in time. Whoever comes to the proposed tick waits there for rank 0, which decides: yes if all
have seen it, else no, and proposes a later one. So no rank goes on where another stops, however late a note comes.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from hftrain.core.interrupts import Call, Interrupts, StopAsked

logger = logging.getLogger(__name__)

AHEAD_S = 2.0
"""Rank 0 proposes a tick that is at least so far ahead, as far as the pace of the last ones tells."""
_LATE_S = 3.5
"""A proposal that is not reached after so long was made at another pace."""
_HURRY_S = 0.5
"""How far ahead the next one is then."""
_POLL_S = 0.1
_WAIT_S = 0.005
_PATIENCE_S = 1800.0
"""How long a process waits for rank 0's decision: as long as collectives do by default."""


class Notes(Protocol):
    """Short texts by name, seen by all processes of a run; safe in any thread."""

    def put(self, name: str, text: str) -> None:
        """Leave a note."""

    def read(self, name: str) -> str | None:
        """Return a note, or None."""


@dataclass(frozen=True, kw_only=True)
class _Proposal:
    number: int
    tick: int
    call: Call
    code: int | None = None


class SharedInterrupts(Interrupts):
    """What was asked of a run of several processes; all of them hear of it at the same tick.

    Args:
        notes: how they tell each other; the names of this run only.
        rank: this process.
        world_size: how many there are.
        settings: as `Interrupts` takes them; rank 0's clock counts.
    """

    stops_in_steps = False

    def __init__(self, notes: Notes, *, rank: int, world_size: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._notes, self._rank, self._world_size = notes, rank, world_size
        self._tick = 0
        self._proposal: _Proposal | None = None
        self._due: _Proposal | None = None
        """Decided where the run could not stop: for the next step's end."""
        self._num_seen = 0
        self._num_passed = 0
        self._has_told = False
        self._leader = _Leader(notes, world_size) if rank == 0 else None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hftrain-interrupts", daemon=True)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Watch for what the other processes are asked while this is open."""
        self._thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._thread.join()

    def check(self) -> None:
        """Do nothing: the others would wait for this process."""

    def check_together(self, gather: Callable[[Any], list[Any]]) -> None:
        """Raise `StopAsked` on all ranks if one was asked. All ranks must call this, and it is a collective."""
        codes = [code for code in gather(self._own_code()) if code is not None]
        if codes:
            self.code = codes[0]
            raise StopAsked(codes[0])

    def after_step(self) -> Call | None:
        """Return what is to be done after this step, which is the same on all ranks. All ranks must call this."""
        decided = self._after_tick() or self._due
        self._due = None
        return None if decided is None else decided.call

    def after_evaluation_batch(self, *, is_shared: bool) -> None:
        """Raise `StopAsked` on all ranks if the run is to stop here. All ranks must call this.

        Where their numbers of batches may differ nothing happens before the end of the step.
        """
        decided = self._after_tick() if is_shared else None
        if decided is None:
            return
        if decided.call == "stop" and self.is_armed:
            raise StopAsked(self.code or 0)
        self._due = decided

    # ---- in the thread that trains ------------------------------------------------------------------

    def _after_tick(self) -> _Proposal | None:
        self._tick += 1
        decided = self._decided() if self._leader is None else self._leader.reach(self._tick)
        if decided is None:
            return None
        if decided.call == "stop":
            self.code = decided.code
        else:
            self._saved_at = self._clock()
        return decided

    def _decided(self) -> _Proposal | None:
        proposal = self._proposal
        if proposal is None or proposal.number <= self._num_passed or self._tick < proposal.tick:
            return None
        self._num_passed = proposal.number  # and never None for it, which could be a later one by now
        if self._tick > proposal.tick or self._decision(proposal.number) != "yes":
            return None
        return proposal

    def _decision(self, number: int) -> str:
        until = time.monotonic() + _PATIENCE_S
        while (answer := self._notes.read(f"decision/{number}")) is None:
            if time.monotonic() > until:
                raise TimeoutError(f"Rank {self._rank} has not heard of rank 0 in {_PATIENCE_S:g} s: it is gone.")
            time.sleep(_WAIT_S)
        return answer

    # ---- in the thread that watches -----------------------------------------------------------------

    def _watch(self) -> None:
        try:
            while not self._is_over.wait(_POLL_S):
                self._tell()
                if self._leader is not None:
                    self._leader.lead(code=self._asked_code(), saves=self._is_save_due())
                else:
                    self._look()
        except Exception as error:
            logger.warning(
                "Rank %d no longer hears what the other processes are asked (%s: %s): a signal stops the run without "
                "a save from now on.",
                self._rank,
                type(error).__name__,
                error,
            )

    def _tell(self) -> None:
        if self.code is not None and not self._has_told:
            self._has_told = True
            self._notes.put("asked", str(self.code))

    def _asked_code(self) -> int | None:
        """Return with which code some rank was asked to stop. Rank 0 calls this."""
        told = self._notes.read("asked")
        return int(told) if told is not None else self._own_code()

    def _own_code(self) -> int | None:
        return self.code if self._is_stopping() else None

    def _look(self) -> None:
        """Read the next proposal, and say so if this process has not passed its tick.

        The order counts: who finds the tick ahead, after the proposal is there for the thread that trains, knows that
        it will be found. One that happens stays there until then, though rank 0, ahead of us, proposes another.
        """
        text, last = self._notes.read(f"proposal/{self._num_seen + 1}"), self._proposal
        if text is None:
            return
        if last is not None and last.number > self._num_passed and not self._is_off(last.number):
            return
        self._num_seen += 1
        self._proposal = proposal = _Proposal(**json.loads(text))
        if self._tick < proposal.tick:
            self._notes.put(f"seen/{proposal.number}/{self._rank}", "yes")

    def _is_off(self, number: int) -> bool:
        return self._notes.read(f"decision/{number}") == "no"


class _Leader:
    """What rank 0 does beyond the others: it proposes, and decides.

    Args:
        notes: how the processes tell each other.
        world_size: how many there are.
    """

    def __init__(self, notes: Notes, world_size: int) -> None:
        self._notes, self._world_size = notes, world_size
        self._open: _Proposal | None = None
        self._made_at = 0.0
        self._number = 0
        self._tick = 0
        self._is_late = False
        self._has_stopped = False
        self._lock = threading.Lock()
        self._pace: deque[tuple[float, int]] = deque(maxlen=round(AHEAD_S / _POLL_S))

    def lead(self, *, code: int | None, saves: bool) -> None:
        """Propose what is wanted, and take back what is not reached in time. The watching thread calls this."""
        call: Call | None = "stop" if code is not None else "save" if saves else None
        with self._lock:
            tick = self._tick
            if not self._pace or self._pace[-1][1] != tick:
                self._pace.append((time.monotonic(), tick))
            if self._has_stopped:
                return
            if self._open is not None and not self._takes_back(self._open, tick, call):
                return
            if call is not None:
                self._propose(tick + self._num_ahead(), call, code)

    def reach(self, tick: int) -> _Proposal | None:
        """Return what happens at this tick, and tell the others. The thread that trains calls this at each of them.

        The lock keeps what is proposed ahead of it: one that this rank passed nobody would decide, and all would wait.
        """
        with self._lock:
            self._tick, proposal = tick, self._open
            if proposal is None or tick < proposal.tick:
                return None
            ranks = range(1, self._world_size)
            is_seen = all(self._notes.read(f"seen/{proposal.number}/{rank}") is not None for rank in ranks)
            self._close("yes" if is_seen else "no")
            self._is_late = False
            self._has_stopped = is_seen and proposal.call == "stop"
            return proposal if is_seen else None

    def _propose(self, tick: int, call: Call, code: int | None) -> None:
        self._number += 1
        self._open = _Proposal(number=self._number, tick=tick, call=call, code=code)
        self._made_at = time.monotonic()
        self._notes.put(f"proposal/{self._number}", json.dumps(asdict(self._open)))

    def _takes_back(self, proposal: _Proposal, tick: int, call: Call | None) -> bool:
        is_late = time.monotonic() - self._made_at > _LATE_S and proposal.tick - tick > 1
        if not is_late and (call == proposal.call or call is None):
            return False
        self._is_late = is_late
        self._close("no")
        return True

    def _close(self, answer: str) -> None:
        assert self._open is not None  # the callers check
        self._notes.put(f"decision/{self._open.number}", answer)
        self._open = None

    def _num_ahead(self) -> int:
        """Return how many ticks are as far ahead as they should be, at the pace of the last ones."""
        if len(self._pace) < 2:
            return 1  # nothing is known: the next one, and if it comes too early another
        now, (end, last) = time.monotonic(), self._pace[-1]
        recent = [point for point in self._pace if now - point[0] <= AHEAD_S]
        start, first = recent[0] if len(recent) > 1 else self._pace[-2]
        per_tick = max((end - start) / (last - first), now - end)  # the one that goes on may be the first slow one
        left = per_tick - (now - end)
        ahead = _HURRY_S if self._is_late else AHEAD_S
        return 1 + math.ceil(max(ahead - left, 0.0) / per_tick)
