"""When a checkpoint of a running Trainer is written in the background, and what follows when it is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hftrain.checkpoint.background import InBackground
from hftrain.checkpoint.layout import size_text
from hftrain.checkpoint.space import num_bytes
from hftrain.core.runner import LoopRunner
from hftrain.errors import CheckpointError, TrainingInterrupted
from hftrain.hardware.host_memory import free_host_bytes
from hftrain.hardware.notes import notes_of_run
from hftrain.trainer.model_files import saved_tensors
from hftrain.trainer.overrides import is_overridden, is_replaced
from hftrain.types.choices import Event

if TYPE_CHECKING:
    from hftrain.trainer.save_methods import SaveMethods

logger = logging.getLogger(__name__)

_SAVING = ("_save_checkpoint", "save_model", "_save")
"""Whoever overrides one of these may count on files that are there when it returns."""
_PATIENCE_S = 60.0
"""How long a process of several that failed goes on writing: the others' files may never come."""


def in_background_if_wanted(trainer: SaveMethods) -> AbstractContextManager[None]:
    """Return a context inside which a save is written while training goes on, if that is wanted and can be.

    Where it is not, the reason is said once. All ranks must call this.
    """
    how = _how_to_write(trainer) if trainer._checkpoints is not None else None
    if how is None or trainer._checkpoints is None:
        return nullcontext()
    return trainer._checkpoints.background.asked_for(how)


def settle(trainer: SaveMethods, *, wait: bool = False) -> None:
    """Do what follows a save in the background that has ended: ``on_save``, or its error.

    All ranks must call this after the same steps; all of them hear of the end after the same step.

    Args:
        trainer: in `train`.
        wait: until the save has ended.

    A storage that refused is a warning, and the next save tries again; `writes_settled` raises the last one's error.

    Raises:
        CheckpointError: it could not be written for another reason; its cause says which.
    """
    checkpoints = trainer._checkpoints
    if checkpoints is None or not checkpoints.background.is_writing:
        return
    outcome = checkpoints.background.outcome(trainer.state.global_step, wait=wait)
    if outcome is None:
        return
    if outcome.error is not None:
        if not outcome.is_refusal:
            raise outcome.error
        go_on_without(trainer, outcome.error)
        return
    if is_overridden(type(trainer), "_rotate_checkpoints") and trainer._running_engine().is_world_process_zero:
        trainer._rotate_checkpoints(use_mtime=True, output_dir=trainer._get_output_dir())
    control = trainer.control
    asked = control.should_save
    trainer.callback_handler.emit(Event.SAVE, checkpoint=outcome.folder)
    control.should_save |= asked  # by this step, for the next save: the event clears what the last one asked


@contextmanager
def writes_settled(trainer: SaveMethods) -> Iterator[None]:
    """Wait, at the end of the training inside, for the save that is being written, and do what follows it.

    An error gives it the time that it takes, an interrupt stops it: it is committed then, or absent.
    All ranks must enter this.

    Raises:
        CheckpointError: the last save failed.
    """
    assert trainer._checkpoints is not None  # set for the duration of train
    saves = trainer._checkpoints.background
    try:
        yield
        _end_of_saves(trainer)
    except TrainingInterrupted:
        _end_of_saves(trainer)
        raise
    except Exception:
        saves.stop(patience_s=None if trainer._running_engine().world_size == 1 else _PATIENCE_S)
        raise
    except BaseException:
        saves.stop(patience_s=0.0)
        raise


def _end_of_saves(trainer: SaveMethods) -> None:
    settle(trainer, wait=True)
    assert trainer._checkpoints is not None  # set for the duration of train
    saves = trainer._checkpoints.background
    error, saves.unmended = saves.unmended, None
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback holds this frame: a cycle that would keep the whole run alive


def go_on_without(trainer: SaveMethods, error: CheckpointError) -> None:
    """Warn that the storage refused a save; the next one tries again, and at the end `writes_settled` raises this."""
    assert trainer._checkpoints is not None  # set for the duration of train
    trainer._checkpoints.background.unmended = error
    trainer.state.best_model_checkpoint = trainer._best_before_save
    if trainer._running_engine().is_world_process_zero:
        logger.warning("%s Training goes on, and the next save tries again.", str(error))
    link: BaseException | None = error
    while link is not None:  # it is kept, and would keep alive whatever the frames that it passed hold
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def settling(trainer: SaveMethods, react: Callable[[LoopRunner], None] | None) -> Callable[[LoopRunner], None] | None:
    """Return what the loop calls after each step and epoch: `settle` first, then ``react``, or the loop's own."""
    if trainer.args.save_async is False:
        return react
    then = react or LoopRunner.react
    is_first = True

    def settle_and_react(runner: LoopRunner) -> None:
        nonlocal is_first
        settle(trainer)
        if is_first:
            is_first = False
            _reserve_memory(trainer)
        then(runner)

    return settle_and_react


def _reserve_memory(trainer: SaveMethods) -> None:
    """Begin to take the memory for copies, when the first step has made the optimizer's state. No collective."""
    args = trainer.args
    is_saving = args.save_strategy != "no" or args.save_minutes is not None
    if not is_saving or trainer._checkpoints is None or not trainer._running_engine().is_world_process_zero:
        return
    if args.save_async or _why_at_once(trainer) is None:
        trainer._checkpoints.background.reserve(_tensors_to_copy(trainer))


def _how_to_write(trainer: SaveMethods) -> InBackground | None:
    engine, args = trainer._running_engine(), trainer.args
    if args.save_async is False:
        return None
    if trainer._writers().num_folders > 1:
        _say_once(trainer, "save_on_each_node=True has every node wait until all of them have written")
        return None
    notes = notes_of_run(engine.world_size)
    reason = _why_at_once(trainer) if args.save_async is None else None
    if notes is None:
        reason = "its processes have no process group through which they could tell each other"
    reasons = [given for given in engine.gather_object(reason) if given is not None]
    if notes is None or reasons:
        _say_once(trainer, reasons[0])
        return None
    return InBackground(
        notes=notes,
        cleans_up=not is_overridden(type(trainer), "_rotate_checkpoints"),
        best=lambda: trainer.state.best_model_checkpoint,
    )


def _why_at_once(trainer: SaveMethods) -> str | None:
    """Return why this process would rather not write in the background."""
    kind = type(trainer)
    for name in _SAVING:
        if is_replaced(trainer, name):
            return f"{kind.__name__} overrides {name}, and may count on files that are there when it returns"
    for name, method in trainer.callback_handler.listeners(Event.SAVE):
        if not _is_ours(method):
            return f"{name} has an on_save, which may count on files of the step that it is called at"
    needed, free = num_bytes(_tensors_to_copy(trainer)), free_host_bytes()
    held = trainer._checkpoints.background.buffer_bytes if trainer._checkpoints else 0
    if free is None:
        return "nothing says how much memory is free"
    if free + held <= 2 * needed:
        return f"free memory ({size_text(free + held)}) is not above twice what would be copied ({size_text(needed)})"
    return None


def _tensors_to_copy(trainer: SaveMethods) -> list[Tensor]:
    """Return what this rank would copy, small things apart: rank 0 copies model and optimizer."""
    runner = trainer._runner
    if not trainer._running_engine().is_world_process_zero:
        return []
    copied: list[Any] = list(saved_tensors(trainer.model))
    if runner is not None and not trainer.args.save_only_model:
        copied += (value for state in runner.optimizer.state.values() for value in state.values())
    return [value for value in copied if isinstance(value, Tensor)]


def _say_once(trainer: SaveMethods, reason: str) -> None:
    if trainer._running_engine().is_world_process_zero and not trainer._said_why_at_once:
        trainer._said_why_at_once = True
        logger.warning(
            "Checkpoints are written before training goes on, because %s. Set save_async=True to write them while it "
            "goes on, or save_async=False to leave this unsaid.",
            reason,
        )


def _is_ours(method: Callable[..., Any]) -> bool:
    """Whether a listener is part of hftrain or its plugins, which are told when files are committed."""
    package = getattr(method, "__module__", "").partition(".")[0]
    return package == "hftrain" or package.startswith("hftrain_")
