"""Stops and saves that are asked for at any instant, and honoured where the run is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

DEADLINE_CODE = 75
"""The exit code of a run that was stopped by its deadline: EX_TEMPFAIL of sysexits.h, try again later."""

Call = Literal["save", "stop"]


class StopAsked(BaseException):
    """Unwinds the loop from where it was asked to stop; what trains it saves, and ends with ``code``.

    No `Exception`, so that neither callbacks nor metrics swallow it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """What is left of the step, or of its end, that a run was stopped in; ``data.json`` keeps it.

    Attributes:
        done: micro-batches of the step whose gradients are there already; the position is the step's beginning.
        of: micro-batches of the whole step; 0 when the run was stopped between two steps.
        is_drawn: all of them were drawn before the first one was computed.
        event: the event that listeners had not all answered: "on_step_end" or "on_epoch_end".
        evaluate: an evaluation is to be done, from its start.
        save: and then a save.
        stop_epoch: then the epoch is over, as a listener asked.
        stop_training: then the run is over.
    """

    done: int = 0
    of: int = 0
    is_drawn: bool = False
    event: str | None = None
    evaluate: bool = False
    save: bool = False
    stop_epoch: bool = False
    stop_training: bool = False

    def __bool__(self) -> bool:
        return self != Unfinished()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class OpenStep:
    """The step that a resumed run goes on inside.

    Attributes:
        done, of, is_drawn: as of `Unfinished`.
        put_gradients: gives the parameters the gradients of the micro-batches that were done.
        rewind_rng: puts the random state back to where the step's micro-batches were drawn; for those drawn at once.
    """

    done: int
    of: int
    is_drawn: bool
    put_gradients: Callable[[], None]
    rewind_rng: Callable[[], None]

    @property
    def num_skipped(self) -> int:
        """Micro-batches that the loader need not give again."""
        return 0 if self.is_drawn else self.done


@dataclass(frozen=True, kw_only=True)
class RandomStates:
    """How the random generators of this process are read and set."""

    take: Callable[[], Any] = lambda: None
    put: Callable[[Any], None] = lambda state: None


class Interrupts:
    """What was asked of a run of one process, by signals and by the clock.

    Args:
        save_s: seconds from one save to the next; None asks for none.
        deadline_s: seconds from now after which the run stops; None for no end.
        clock: seconds of a clock that only goes forward.
        random_states: for evaluations that are run again from their start.

    Attributes:
        code: the exit code with which somebody asked the run to stop; None as long as nobody did.
        is_armed: whether the run could stop inside what listeners and actions do now.
        stops_at_once: whether nothing would be lost by stopping at any instant.
        stops_in_steps: whether the run can stop between two micro-batches of a step.
        saved_step: the step that was saved last; None before the first save.
        wake: has the thread that trains look at `stops_at_once`, whatever it waits for; None: nothing can.
        before_evaluation: the random state of the evaluation that is running or was left.
    """

    stops_in_steps = True

    def __init__(
        self,
        *,
        save_s: float | None = None,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        random_states: RandomStates | None = None,
    ) -> None:
        self.code: int | None = None
        self.is_armed = False
        self.stops_at_once = False
        self.saved_step: int | None = None
        self.wake: Callable[[], None] | None = None
        self.before_evaluation: Any = None
        self.random_states = random_states or RandomStates()
        self._clock = clock
        self._save_s = save_s
        self._saved_at = clock()
        self._deadline = None if deadline_s is None else clock() + deadline_s

    def ask(self, code: int) -> None:
        """Ask the run to stop; who asks first gives the exit code. Safe in a signal handler."""
        if self.code is None:
            self.code = code

    def note_save(self, step: int) -> None:
        """Hear that ``step`` was saved; ``save_s`` counts from here."""
        self.saved_step, self._saved_at = step, self._clock()

    @contextmanager
    def at_once(self, *, if_: bool) -> Iterator[None]:
        """Let a signal or the deadline stop the run at any instant inside: nothing is done there that would be lost."""
        self.check()
        self.stops_at_once = if_ and self.stops_in_steps
        alarm = None
        if self.stops_at_once and self._deadline is not None and self.wake is not None:
            alarm = threading.Timer(max(self._deadline - self._clock(), 0.0), self._ring)
            alarm.daemon = True
            alarm.start()
        try:
            yield
        finally:
            self.stops_at_once = False
            if alarm is not None:
                alarm.cancel()
                alarm.join()  # it rings here, or not at all

    def _ring(self) -> None:
        """Tell the thread that trains that the deadline is over."""
        self.ask(DEADLINE_CODE)
        if self.wake is not None:
            self.wake()

    def before_drawing(self) -> Any:
        """Return the random state that a step's micro-batches are drawn from, if the run can stop between them."""
        return self.random_states.take() if self.stops_in_steps else None

    def after_micro_batch(self) -> bool:
        """Return whether the run is to stop inside its step."""
        return self.stops_in_steps and self._is_stopping()

    def after_step(self) -> Call | None:
        """Return what is to be done after a step, or after an epoch. All ranks must call this."""
        if self._is_stopping():
            return "stop"
        return "save" if self._is_save_due() else None

    def arm(self) -> None:
        """Let the run stop inside an evaluation or prediction from here on, which is run again from its start."""
        self.is_armed, self.before_evaluation = True, None

    def disarm(self) -> None:
        """End what `arm` began."""
        self.is_armed, self.before_evaluation = False, None

    def begin_evaluation(self) -> None:
        """Hear that an evaluation begins."""
        if self.is_armed and self.before_evaluation is None:
            self.before_evaluation = self.random_states.take()

    def after_evaluation_batch(self, *, is_shared: bool) -> None:
        """Raise `StopAsked` if the run is to stop here. All ranks must call this.

        Args:
            is_shared: whether all ranks have equally many batches.
        """
        if self.is_armed and self._is_stopping():
            raise StopAsked(self.code or 0)

    def check(self) -> None:
        """Raise `StopAsked` if somebody asked the run to stop and this process need not agree with others."""
        if self._is_stopping():
            raise StopAsked(self.code or 0)

    def check_together(self, gather: Callable[[Any], list[Any]]) -> None:
        """Raise `StopAsked` on all ranks if one was asked. All ranks must call this, where nobody waits for them."""
        self.check()

    def heard(self) -> AbstractContextManager[None]:
        """Hear what other processes are asked while this is open."""
        return nullcontext()

    def _is_stopping(self) -> bool:
        if self.code is None and self._deadline is not None and self._clock() >= self._deadline:
            self.ask(DEADLINE_CODE)
        return self.code is not None

    def _is_save_due(self) -> bool:
        return self._save_s is not None and self._clock() - self._saved_at >= self._save_s
