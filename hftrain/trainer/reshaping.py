"""A run that goes on with steps of another size: where in the data, until when, at which learning rate."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hftrain.core.horizon import Horizon
from hftrain.core.position import Position
from hftrain.data.epochs import EpochLoader
from hftrain.optim.stretching import Stretch, is_stretchable, move_end, stretch, stretch_of
from hftrain.trainer.run_length import horizon_from, horizon_of
from hftrain.trainer.settings import data_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hftrain.core.loop_settings import LoopSettings
    from hftrain.trainer.save_methods import SaveMethods
    from hftrain.trainer.trainer import Trainer
    from hftrain.types.state import TrainerState

logger = logging.getLogger(__name__)

STEPS = ("batch_size", "accumulation_steps", "world_size", "num_samples")
"""What decides how many steps an epoch has."""

ORDER = ("seed", "num_samples")
"""What decides the order of an epoch, besides the sampler."""

SHAPE = ("batch_size", "accumulation_steps", "world_size", "num_workers", "seed", "num_samples")


# ---- shapes -----------------------------------------------------------------------------------------


def shape_of(trainer: SaveMethods, loader: Any, *, accumulation_steps: int, num_samples: int | None) -> dict[str, Any]:
    """Return what decides which samples a step takes, and how they are loaded; it is part of ``data.json``."""
    return {
        "batch_size": trainer._train_batch_size,
        "accumulation_steps": accumulation_steps,
        "world_size": trainer._running_engine().world_size,
        "num_workers": getattr(loader, "num_workers", 0),
        "seed": data_seed(trainer.args),
        "num_samples": num_samples,
    }


@dataclass(frozen=True, kw_only=True)
class ShapeChange:
    """What differs between a run and the one that wrote its checkpoint.

    Attributes:
        then: the values of then, by name; those that differ.
        now: the values of now.
    """

    then: Mapping[str, Any]
    now: Mapping[str, Any]

    @property
    def resizes(self) -> bool:
        """Whether an epoch has other steps."""
        return not self.then.keys().isdisjoint(STEPS)

    @property
    def reorders(self) -> bool:
        """Whether the epoch has another order."""
        return not self.then.keys().isdisjoint(ORDER)

    def __str__(self) -> str:
        return ", ".join(f"{name} {old} -> {self.now[name]}" for name, old in self.then.items())


def shape_change(then: Mapping[str, Any], now: Mapping[str, Any]) -> ShapeChange:
    """Compare shapes; a value that one of them does not know is no difference."""
    differing = {
        name: then[name] for name in SHAPE if None not in (then.get(name), now[name]) and then[name] != now[name]
    }
    return ShapeChange(then=differing, now=now)


# ---- data -------------------------------------------------------------------------------------------


def whole_batches(position: Position, source: EpochLoader, change: ShapeChange) -> Position:
    """Return the position at which a loader of batches of another size can start: the same or a little before.

    A loader that starts anywhere needs no other; another one drops whole batches of its own.
    """
    if source.starts_anywhere or not change.resizes:
        return position
    per_batch = source.global_batch_size
    if per_batch is None:
        batches = position.batches * change.then.get("world_size", 1) // change.now.get("world_size", 1)
        return replace(position, batches=batches)
    batches = position.samples // per_batch
    if position.samples == source.num_samples and source.num_batches is not None:
        batches = source.num_batches
    return replace(position, batches=batches, samples=min(batches * per_batch, position.samples))


# ---- length -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run goes on.

    Attributes:
        horizon: where it ends.
        schedule_length: how many steps its learning-rate schedule is made for.
        stretch: how that was stretched before; None if it was not.
    """

    horizon: Horizon
    schedule_length: int
    stretch: Stretch | None = None


def plan_from_start(trainer: Trainer, source: EpochLoader) -> Plan:
    """Return the plan of a run from step 0."""
    horizon = horizon_of(trainer, source)
    return Plan(horizon=horizon, schedule_length=horizon.max_steps)


def plan_from(
    trainer: Trainer,
    source: EpochLoader,
    settings: LoopSettings,
    position: Position,
    *,
    global_step: int,
    max_steps: int,
    saved: Mapping[str, Any],
    resizes: bool,
) -> Plan:
    """Return the plan of a run that goes on.

    Args:
        trainer: the Trainer.
        source: the training batches.
        settings: of the loop.
        position: where it goes on.
        global_step: steps done.
        max_steps: where the run that did them was to end.
        saved: the ``length`` of ``data.json``, from `length_document`.
        resizes: whether an epoch has other steps now.
    """
    horizon = horizon_of(trainer, source)
    extra = saved.get("extra_steps" if horizon.epoch_based else "extra_epochs")
    if resizes or (saved and extra is None):
        horizon = horizon_from(horizon, source, settings, position, global_step=global_step)
    elif extra is not None:
        horizon = horizon.moved(extra)
    knots = saved.get("schedule")
    by = Stretch(tuple((step, float(value)) for step, value in knots)) if knots else None
    if by is None and resizes and global_step < max_steps:
        return Plan(horizon=horizon, schedule_length=max_steps)
    if by is None or by(global_step) >= by.length:
        return Plan(horizon=horizon, schedule_length=horizon.max_steps)
    return Plan(horizon=horizon, schedule_length=by.length, stretch=by)


def length_document(horizon: Horizon, scheduler: Any) -> dict[str, Any] | None:
    """Return as JSON what `plan_from` needs; None where all steps had one size."""
    if horizon.extra is None:
        return None
    by = stretch_of(scheduler)
    extra = {"extra_steps" if horizon.epoch_based else "extra_epochs": horizon.extra}
    return extra if by is None else {**extra, "schedule": [list(knot) for knot in by.knots]}


def told(change: ShapeChange, plan: Plan, state: TrainerState, *, start: Position, position: Position) -> str:
    """Return in one line what differs, and what follows from it."""
    words = [f"Resumed with changed settings: {change}."]
    if change.resizes:
        ends = f"ends at step {plan.horizon.max_steps}"
        if plan.horizon.max_steps != state.max_steps:
            ends += f" instead of {state.max_steps}, and the learning rate goes on from where it is and ends there too"
        words.append(
            f"After step {state.global_step} the run goes on behind {start.samples} samples of epoch {start.epoch} and "
            f"{ends}."
        )
    if start.samples != position.samples:
        again = position.samples - start.samples
        words.append(f"The loader starts at whole batches only, so {again} samples are trained on again.")
    if change.then.get("world_size", change.now["world_size"]) < change.now["world_size"]:
        words.append("The random numbers of the new processes follow from seed, step and rank.")
    if change.reorders:
        words.append("The epoch has another order now, so samples repeat or are left out in it.")
    return " ".join(words)


# ---- learning rate ----------------------------------------------------------------------------------


def create_optimizer_and_scheduler(trainer: Trainer, plan: Plan) -> bool:
    """Create both as the Trainer does; return whether the schedule, once loaded, should be stretched to the run's end.

    Only a documented schedule can: it is made for as many steps as the plan says. One that the user gave is the user's
    affair, and any other is made for the run's length as ever.
    """
    end, length, is_given = plan.horizon.max_steps, plan.schedule_length, trainer.lr_scheduler is not None
    trainer.create_optimizer_and_scheduler(length)
    if is_given or (length == end and plan.stretch is None):
        return False
    if is_stretchable(trainer.lr_scheduler):
        return True
    trainer.lr_scheduler = None
    trainer.create_optimizer_and_scheduler(end)
    if not type(trainer.lr_scheduler).__module__.startswith("hftrain."):  # ours that are left know no end
        logger.warning(
            "The run ends at step %d now, and %s is no schedule of hftrain's: its learning rate may jump.",
            end,
            type(trainer.lr_scheduler).__name__,
        )
    return False


def stretch_schedule(trainer: Trainer, plan: Plan) -> None:
    """Let the loaded schedule end with the run, its rate going on from where it is."""
    if plan.stretch is not None:
        stretch(trainer.lr_scheduler, plan.stretch)
    move_end(trainer.lr_scheduler, length=plan.schedule_length, end=plan.horizon.max_steps)
