"""Runs that are told to stop, by a signal or a deadline: saved where they are, and gone on with by the same command."""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hftrain.checkpoint import gradients
from hftrain.checkpoint.contents import Part, tree_part
from hftrain.core.agreement import SharedInterrupts
from hftrain.core.interrupts import DEADLINE_CODE, Interrupts, OpenStep, RandomStates, StopAsked, Unfinished
from hftrain.errors import TrainingInterrupted
from hftrain.hardware.notes import OwnNotes, notes_of_run
from hftrain.hardware.seeding import rng_state, set_rng_state
from hftrain.trainer.adapters import TrainerActions

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments
    from hftrain.checkpoint.reader import CheckpointReader
    from hftrain.core.runner import LoopRunner
    from hftrain.hardware.engine import Engine
    from hftrain.trainer.save_methods import SaveMethods
    from hftrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


# ---- hearing ----------------------------------------------------------------------------------------


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[Interrupts]:
    """Let the run inside be stopped by signals and by its deadline. All ranks must enter this.

    Raises:
        TrainingInterrupted: it was; what there was to save is committed.
    """
    engine = trainer._running_engine()
    interrupts = trainer._interrupts = new_interrupts(trainer.args, engine)
    interrupts.stops_at_once = interrupts.stops_in_steps  # until there is something to save
    try:
        with _signals_heard(interrupts), interrupts.heard():
            yield interrupts
            interrupts.check_together(engine.gather_object)
    except StopAsked as stop:
        raise TrainingInterrupted(stop.code) from None
    finally:
        trainer._interrupts = None


def new_interrupts(args: TrainingArguments, engine: Engine) -> Interrupts:
    """Return what hears for this run. All ranks must call this."""
    settings: dict[str, Any] = {
        "save_s": None if args.save_minutes is None else args.save_minutes * 60,
        "deadline_s": None if args.deadline_minutes is None else args.deadline_minutes * 60,
        "random_states": RandomStates(take=rng_state, put=set_rng_state),
    }
    if engine.world_size == 1:
        return Interrupts(**settings)
    name = engine.broadcast_object(secrets.token_hex(8))
    notes = notes_of_run(engine.world_size, f"interrupts/{name}")
    return SharedInterrupts(notes or OwnNotes(), rank=engine.process_index, world_size=engine.world_size, **settings)


@contextmanager
def _signals_heard(interrupts: Interrupts) -> Iterator[None]:
    """Hand the signals on while this is open, and give the handlers back that there were before.

    A signal that is ignored stays so, as a shell asks with ``nohup``; one whose handler Python did not set is left
    alone, since it could not be given back.
    """
    if threading.current_thread() is not threading.main_thread():
        logger.info("Training runs outside the main thread, where Python sets no handlers: signals do not save it.")
        yield
        return
    handle = _Handler(interrupts)
    before: dict[Any, Any] = {}
    try:
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, handle)
        own = next((number for number in before if number != signal.SIGINT), None)
        if own is not None and hasattr(signal, "pthread_kill"):
            interrupts.wake = partial(signal.pthread_kill, threading.get_ident(), own)
        yield
    finally:
        interrupts.wake = None  # the handlers of before would take it for a real signal
        for number, handler in before.items():
            signal.signal(number, handler)


class _Handler:
    """Notes a signal; a second SIGINT is a KeyboardInterrupt at once."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._has_heard_sigint = False

    def __call__(self, number: int, frame: Any) -> None:
        """Be called by Python in the main thread, between any two instructions of it."""
        if number == signal.SIGINT:
            if self._has_heard_sigint:
                raise KeyboardInterrupt
            self._has_heard_sigint = True
        self._interrupts.ask(128 + number)
        if self._interrupts.stops_at_once:
            self._interrupts.stops_at_once = False  # a launcher may tell twice, and what unwinds now is not broken into
            raise StopAsked(self._interrupts.code or 128 + number)


# ---- stopping ---------------------------------------------------------------------------------------


@contextmanager
def saved_when_stopped(trainer: Trainer, runner: LoopRunner, interrupts: Interrupts) -> Iterator[None]:
    """Save the run inside when it is stopped, and end it. All ranks must enter this.

    Raises:
        TrainingInterrupted: after the save; the caller waits for one that is written in the background.
    """
    first_step = trainer.state.global_step
    interrupts.stops_at_once = False
    try:
        yield
        interrupts.check_together(trainer._running_engine().gather_object)
    except StopAsked as stop:
        logger.warning("%s: the run stops at step %d.", _reason(stop.code), trainer.state.global_step)
        step = trainer.state.global_step
        # One that is committed at this very step is not written over for some gradients: a kill would lose it.
        if step != interrupts.saved_step and (runner.unfinished.done or step != first_step):
            TrainerActions(trainer).save()
        raise TrainingInterrupted(stop.code) from None


def _reason(code: int) -> str:
    return "deadline_minutes is over" if code == DEADLINE_CODE else f"{signal.Signals(code - 128).name} was received"


def stopped_parts(trainer: SaveMethods) -> Sequence[Part]:
    """Return what a checkpoint holds of this rank where it stopped: its loader's place, and gradients inside a step."""
    runner = trainer._runner
    assert runner is not None  # set for the duration of train
    done = runner.unfinished.done
    num_ahead = runner.unfinished.of if runner.unfinished.is_drawn else 0
    place = runner.source.place(is_inside=bool(runner.position.batches or done), num_ahead=num_ahead)
    parts = [] if place is None else [tree_part("loader", place.to_tree(), per_rank=True)]
    if done:
        drawn_from = runner.drawn_from if runner.unfinished.is_drawn else None
        parts.append(gradients.gradients_part(trainer.model, runner.optimizer, drawn_from=drawn_from))
    return parts


# ---- going on ---------------------------------------------------------------------------------------


def unfinished_of(data: dict[str, Any]) -> Unfinished:
    """Return what the run that wrote ``data.json`` left to do."""
    known = Unfinished.__dataclass_fields__
    return Unfinished(**{name: value for name, value in data.get("unfinished", {}).items() if name in known})


def open_step(trainer: Trainer, unfinished: Unfinished, reader: CheckpointReader) -> OpenStep | None:
    """Return the step to go on inside; None if the checkpoint is of a step's end, or has no gradients of this rank."""
    rank = trainer._running_engine().process_index
    if not unfinished.done or not reader.has("grads", rank=rank):
        return None
    part = reader.part("grads", rank=rank)
    drawn_from = gradients.drawn_from(part)

    def put_gradients() -> None:
        assert trainer.optimizer is not None  # made before the loop
        gradients.put_gradients(part, trainer.model, trainer.optimizer)
        if unfinished.is_drawn:
            _forget_counts(trainer)

    return OpenStep(
        done=unfinished.done,
        of=unfinished.of,
        is_drawn=unfinished.is_drawn,
        put_gradients=put_gradients,
        rewind_rng=(lambda: None) if drawn_from is None else partial(set_rng_state, drawn_from),
    )


def without_open_step(windows: list[dict[str, Any]], done: int) -> list[dict[str, Any]]:
    """Return the log windows without the losses of the last ``done`` micro-batches, which will be made again."""
    if not done:
        return windows
    return [
        {**window, "losses": {**window["losses"], "window": window["losses"]["window"][:-done]}} for window in windows
    ]


def _forget_counts(trainer: Trainer) -> None:
    """Take back what was counted of micro-batches that were drawn a second time."""
    if trainer._token_counter is not None:
        trainer._token_counter.rewind(0)
    trainer.current_flos = 0.0
