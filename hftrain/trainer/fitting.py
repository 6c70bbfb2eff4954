"""One call of `Trainer.train`: prepare the run, let the loop train, finish."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hftrain.checkpoint.documents import neighbour
from hftrain.checkpoint.layout import new_run_id
from hftrain.core.horizon import Horizon
from hftrain.core.interrupts import Unfinished
from hftrain.core.loop_settings import LoopSettings
from hftrain.core.meters import LossWindow, Meters, merged_windows
from hftrain.core.position import Position
from hftrain.core.runner import LoopRunner
from hftrain.core.speed import speed_metrics
from hftrain.core.task import TaskModule
from hftrain.core.timing import StepTimes, TimedActions
from hftrain.data.epochs import EpochLoader
from hftrain.errors import CheckpointError, ConfigurationError
from hftrain.hardware.overflow import overflow_monitor
from hftrain.trainer.adapters import TrainerActions, TrainerTask
from hftrain.trainer.background import settling, writes_settled
from hftrain.trainer.batch_size import BatchSizeFitter, accumulation_restored, restore_batch_size
from hftrain.trainer.counters import observed, settle_counts, tokens_per_second
from hftrain.trainer.overrides import is_overridden
from hftrain.trainer.preemption import (
    interruptible,
    open_step,
    saved_when_stopped,
    unfinished_of,
    without_open_step,
)
from hftrain.trainer.preflight import refuse_lack_of_space
from hftrain.trainer.reactions import reactions_of
from hftrain.trainer.reshaping import (
    SHAPE,
    Plan,
    create_optimizer_and_scheduler,
    plan_from,
    plan_from_start,
    shape_change,
    shape_of,
    stretch_schedule,
    told,
    whole_batches,
)
from hftrain.trainer.resuming import place_in, position_after, state_from
from hftrain.trainer.run_length import training_source
from hftrain.trainer.settings import loop_settings
from hftrain.trainer.stepping import direct_calls_in_precision
from hftrain.trainer.tracking import reported
from hftrain.types.choices import DebugOption, Event
from hftrain.types.outputs import TrainOutput
from hftrain.types.state import TrainerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from hftrain.checkpoint.reader import CheckpointReader
    from hftrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)


ROW_DECIMALS = 4
"""To so many digits a plain module's loss is rounded in a row, as in the documented rows; a task's is exact."""


@dataclass(kw_only=True)
class Resume:
    """What a checkpoint gives to the run that goes on from it."""

    state: TrainerState
    position: Position | None
    order: dict[str, Any] | None
    windows: list[dict[str, Any]]
    shape: dict[str, Any]
    length: dict[str, Any]
    unfinished: Unfinished
    reader: CheckpointReader


def fit(trainer: Trainer, resume_from: bool | str | None) -> TrainOutput:
    """Train as `Trainer.train` promises. All ranks must call this."""
    memory = trainer._memory_tracker.stage("train")
    with accumulation_restored(trainer), memory as add_memory, interruptible(trainer) as interrupts:
        resume = _prepare(trainer, resume_from)
        times = None if trainer._tracking is None else StepTimes()
        runner = _runner(trainer, resume, times)
        refuse_lack_of_space(trainer, runner.optimizer)
        trainer._runner = runner
        started, first_step = time.time(), trainer.state.global_step
        resumed_step = first_step if resume is not None else None
        with reported(trainer, resumed_step=resumed_step, times=times, remote_ids=_remote_ids(resume)):
            with (
                _watched(trainer),
                direct_calls_in_precision(trainer),
                writes_settled(trainer),
                saved_when_stopped(trainer, runner, interrupts),
            ):
                runner.fit()
            if times is not None:
                times.make_due()
            return _finish(trainer, runner, started, first_step, add_memory)


def _watched(trainer: Trainer) -> AbstractContextManager[None]:
    is_asked = DebugOption.UNDERFLOW_OVERFLOW in trainer.args.debug
    return overflow_monitor(trainer.model) if is_asked else nullcontext()


# ---- before -----------------------------------------------------------------------------------------


def _prepare(trainer: Trainer, resume_from: bool | str | None) -> Resume | None:
    """Find the checkpoint, set up the data and load the weights."""
    engine = trainer._running_engine()
    trainer._refuse_unwritable_output()
    checkpoints = trainer._checkpoints = trainer._new_checkpoints()
    path = trainer._loaded_checkpoint = checkpoints.resolve(resume_from)
    resume = None if path is None else _read(checkpoints.open(path))
    trainer.run_id = checkpoints.run_id = _run_id(trainer, resume)
    trainer._set_up_data("fit")
    trainer._refuse_missing_evaluation()
    if resume is not None:
        restore_batch_size(trainer, resume.state.train_batch_size)
        trainer._load_from_checkpoint(resume.reader.path)
    engine.place(trainer.model, move=trainer.place_model_on_device)
    return resume


def _read(reader: CheckpointReader) -> Resume:
    if not reader.has("optimizer"):
        raise CheckpointError(
            f"{reader.path} holds a model only (it was saved with save_only_model=True), so a run cannot go on from "
            "it. Load its weights with from_checkpoint and train without resume_from_checkpoint."
        )
    fields = reader.fields("trainer_state")
    data: dict[str, Any] = {"batch_size": fields.get("train_batch_size")}
    if reader.has("data"):
        data = reader.fields("data")
    return Resume(
        state=_neighbourly(state_from(fields), reader),
        position=Position(**data["position"]) if "position" in data else None,
        order=data.get("order"),
        windows=data.get("windows", []),
        shape={name: data[name] for name in SHAPE if data.get(name) is not None},
        length=data.get("length") or {},
        unfinished=unfinished_of(data),
        reader=reader,
    )


def _neighbourly(state: TrainerState, reader: CheckpointReader) -> TrainerState:
    """Return the state with its best checkpoint beside the one that names it, and nowhere else."""
    named = state.best_model_checkpoint
    state.best_model_checkpoint = best = neighbour(named, reader.path)
    if named is not None and best != named:
        logger.warning("%s names %r as its best checkpoint; taking %s for it.", reader.path, named, best or "none")
    return state


def _run_id(trainer: Trainer, resume: Resume | None) -> str:
    known = resume.reader.fields("run").get("run_id") if resume is not None and resume.reader.has("run") else None
    return trainer._running_engine().broadcast_object(known or new_run_id(datetime.now().astimezone()))


def _remote_ids(resume: Resume | None) -> dict[str, str]:
    """Return each tracker's id of the run, as the checkpoint has it."""
    if resume is None or not resume.reader.has("run"):
        return {}
    return resume.reader.fields("run").get("remote_ids") or {}


def _runner(trainer: Trainer, resume: Resume | None, times: StepTimes | None) -> LoopRunner:
    """Build the loop: loader, horizon, optimizer, wrapper, state, then what the checkpoint gives back."""
    engine, handler = trainer._running_engine(), trainer.callback_handler
    task = trainer.model if isinstance(trainer.model, TaskModule) else None
    settings = loop_settings(trainer.args, loss_decimals=ROW_DECIMALS if task is None else None)
    source = training_source(trainer)
    source.load_order(resume.order if resume is not None else None)
    if resume is not None and not trainer.args.ignore_data_skip:
        source.load_place(place_in(resume.reader, rank=engine.process_index))
    position = _position(trainer, source, resume)
    if resume is None:
        plan = plan_from_start(trainer, source)
    else:
        position, plan = _going_on(trainer, resume, source, settings, position)
    _make_parts(trainer, source, plan, resume)
    _start_state(trainer, resume, plan.horizon)
    _bind_handler(trainer, source)
    losses, meters = _windows(trainer, resume, settings)
    if task is not None:
        task.bind(engine, training=True).meters = meters
    trainer.model.train()
    assert trainer.optimizer is not None  # create_optimizer made it
    adapter = TrainerTask(trainer)
    return LoopRunner(
        task=adapter if task is None else task,
        engine=engine,
        source=observed(trainer, source, times),
        optimizer=trainer.optimizer,
        scheduler=None if _steps_on_metrics(trainer.lr_scheduler) else trainer.lr_scheduler,
        settings=settings,
        horizon=plan.horizon,
        state=trainer.state,
        control=trainer.control,
        events=handler,
        actions=TrainerActions(trainer) if times is None else TimedActions(TrainerActions(trainer), times),
        meters=meters,
        position=position,
        losses=losses,
        restore_rng=_rng_restorer(trainer, resume),
        draw=adapter.draw_step if task is None and adapter.draws_steps else None,
        fitter=BatchSizeFitter(trainer) if trainer.args.auto_find_batch_size else None,
        react=settling(trainer, reactions_of(trainer)),
        interrupts=trainer._interrupts,
        unfinished=resume.unfinished if resume is not None else None,
        open_step=open_step(trainer, resume.unfinished, resume.reader) if resume is not None else None,
        read_rate=trainer._get_learning_rate if is_overridden(type(trainer), "_get_learning_rate") else None,
    )


def _make_parts(trainer: Trainer, source: EpochLoader, plan: Plan, resume: Resume | None) -> None:
    """Make optimizer, schedule and wrapper, and give them the state of the checkpoint."""
    is_stretched = create_optimizer_and_scheduler(trainer, plan)
    trainer.model_wrapped = trainer._wrap_model(trainer.model, training=True, dataloader=source.loader)
    if resume is not None:
        trainer._load_optimizer_and_scheduler(resume.reader.path)
        trainer._load_scaler(resume.reader.path)
    if is_stretched:
        stretch_schedule(trainer, plan)


def _bind_handler(trainer: Trainer, source: EpochLoader) -> None:
    """Give the listeners what they are told of."""
    handler = trainer.callback_handler
    handler.train_dataloader = source.loader
    handler.optimizer, handler.lr_scheduler = trainer.optimizer, trainer.lr_scheduler
    handler.model = trainer.model
    handler.bind(trainer.args, trainer.state, trainer.control)


def _position(trainer: Trainer, source: EpochLoader, resume: Resume | None) -> Position:
    """Return where the data starts: with ignore_data_skip at an epoch's beginning, else where the run was."""
    if resume is None:
        return Position()
    done = resume.position or position_after(
        resume.state.global_step,
        source,
        accumulation_steps=loop_settings(trainer.args).accumulation_steps,
        batch_size=trainer._train_batch_size,
        batch_size_then=resume.shape.get("batch_size"),
        drop_last=trainer.args.dataloader_drop_last,
    )
    if not trainer.args.ignore_data_skip:
        return done
    _forget_open_step(resume)
    is_over = source.remaining(samples_done=done.samples, batches_done=done.batches) == 0
    return Position(epoch=done.epoch + is_over)


def _forget_open_step(resume: Resume) -> None:
    """Begin anew the step that the run was stopped in: its micro-batches would be others now."""
    resume.windows = without_open_step(resume.windows, resume.unfinished.done)
    resume.unfinished = replace(resume.unfinished, done=0, of=0)


def _windows(trainer: Trainer, resume: Resume | None, settings: LoopSettings) -> tuple[LossWindow, Meters]:
    """Return the open logging window of this rank, as the checkpoint left it."""
    engine, saved = trainer._running_engine(), resume.windows if resume is not None else []
    losses: dict[str, Any] | None = None
    meters: dict[str, Any] = {}
    if len(saved) == engine.world_size:
        losses, meters = saved[engine.process_index]["losses"], saved[engine.process_index]["meters"]
    elif saved:
        losses = merged_windows([window["losses"] for window in saved])
    elif resume is not None:  # another trainer's, which keeps no open window: one begins here
        losses = {"steps_closed": resume.state.global_step}
    return LossWindow(filter_nonfinite=settings.filter_nonfinite_losses, state=losses), Meters(meters)


def _going_on(
    trainer: Trainer, resume: Resume, source: EpochLoader, settings: LoopSettings, position: Position
) -> tuple[Position, Plan]:
    """Return where and until when the run goes on; one line says what makes its steps others than before."""
    accumulation, num_samples = settings.accumulation_steps, source.num_samples
    now = shape_of(trainer, source.loader, accumulation_steps=accumulation, num_samples=num_samples)
    change = shape_change(resume.shape, now)
    start = whole_batches(position, source, change)
    if change.resizes:
        _forget_open_step(resume)
    state = resume.state
    plan = plan_from(
        trainer,
        source,
        settings,
        start,
        global_step=state.global_step,
        max_steps=state.max_steps,
        saved=resume.length,
        resizes=change.resizes,
    )
    if change.then and trainer.is_world_process_zero():
        logger.warning("%s", told(change, plan, state, start=start, position=position))
    return start, plan


def _start_state(trainer: Trainer, resume: Resume | None, horizon: Horizon) -> None:
    state = resume.state if resume is not None else TrainerState()
    if resume is None:
        state.epoch = 0.0
    else:
        trainer.compare_trainer_and_checkpoint_args(trainer.args, state)
    state.train_batch_size = trainer._train_batch_size
    state.compute_steps(trainer.args, horizon.max_steps)
    state.init_training_references(trainer, horizon.max_steps, horizon.num_train_epochs, None)
    trainer.state = state
    if resume is not None:
        logger.info(
            "Resuming from %s: step %d of %d, epoch %.4g.",
            resume.reader.path,
            state.global_step,
            state.max_steps,
            state.epoch or 0.0,
        )
        trainer._load_callback_state()


def _rng_restorer(trainer: Trainer, resume: Resume | None) -> Any:
    if resume is None:
        return None
    return lambda: trainer._load_rng_state(resume.reader.path)


def _steps_on_metrics(scheduler: Any) -> bool:
    # ReduceLROnPlateau and its like; torch.optim would be imported for an isinstance.
    return hasattr(scheduler, "num_bad_epochs")


# ---- after ------------------------------------------------------------------------------------------


def _finish(
    trainer: Trainer,
    runner: LoopRunner,
    started: float,
    first_step: int,
    add_memory: Callable[[dict[str, Any]], None],
) -> TrainOutput:
    if trainer.args.load_best_model_at_end:
        trainer._load_best_model()
    state, horizon = trainer.state, runner.horizon
    train_loss = runner.train_loss()
    share = (state.global_step - first_step) / max(horizon.max_steps, 1)
    metrics = speed_metrics(
        "train",
        started,
        num_samples=round(horizon.num_train_samples * share),
        num_steps=state.global_step - first_step,
    )
    settle_counts(trainer)
    metrics.update(tokens_per_second(trainer, started))
    metrics["total_flos"] = state.total_flos
    metrics["train_loss"] = train_loss
    add_memory(metrics)
    trainer.log(metrics)
    assert trainer._checkpoints is not None  # made in _prepare
    best = trainer._best_checkpoint()
    if trainer.args.save_total_limit == 1 and best is not None:  # every other limit was kept while training
        trainer._checkpoints.retain(best=best)
    trainer.callback_handler.emit(Event.TRAIN_END)
    return TrainOutput(global_step=state.global_step, training_loss=train_loss, metrics=metrics)


def refuse_resume_value(value: Any) -> None:
    """Raise unless ``resume_from_checkpoint`` is a bool, a path, "auto" or None."""
    if value is not None and not isinstance(value, (bool, str)) and not hasattr(value, "__fspath__"):
        raise ConfigurationError(
            f"resume_from_checkpoint={value!r} is a {type(value).__name__}. Pass a path, True (the newest in "
            'output_dir), "auto" (like True, or a fresh start when there is none), or False.'
        )
