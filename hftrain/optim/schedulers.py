"""The ten learning-rate schedules, under their documented names and signatures.

A curve is a ``functools.partial`` over a function of this module: nothing of it enters a scheduler's state, which is
therefore small and JSON, and a resumed run follows the horizon it was given, not the one that was saved.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from hftrain.errors import ConfigurationError
from hftrain.optim import curves
from hftrain.optim.adafactor import Adafactor, AdafactorSchedule
from hftrain.types.choices import SchedulerType


def _scheduler(optimizer: Optimizer, curve: curves.Curve, last_epoch: int) -> LambdaLR:
    if any(group["lr"] is None for group in optimizer.param_groups):
        raise ConfigurationError(
            f"{type(optimizer).__name__} computes its own step size (relative_step=True), and a schedule scales lr. "
            "Give it lr and relative_step=False, or use get_adafactor_schedule."
        )
    return LambdaLR(optimizer, curve, last_epoch)


def _after_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int, then: curves.Curve) -> LambdaLR:
    return _scheduler(optimizer, partial(curves.warmed_up, num_warmup_steps=num_warmup_steps, then=then), last_epoch)


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """The learning rate set in the optimizer, unchanged."""
    return _scheduler(optimizer, curves.constant, last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """Warm-up in a line from 0, then constant."""
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, curves.constant)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Warm-up in a line from 0, then down to 0 in a line at ``num_training_steps``."""
    fall = partial(curves.line_down, start=num_warmup_steps, end=num_training_steps)
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, fall)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm-up in a line from 0, then ``num_cycles`` waves of a cosine; the default falls to 0 once."""
    fall = partial(curves.cosine_down, start=num_warmup_steps, end=num_training_steps, num_cycles=num_cycles)
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, fall)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """Warm-up in a line from 0, then ``num_cycles`` falls along half a cosine, each starting at the top."""
    fall = partial(curves.cosine_restarts, start=num_warmup_steps, end=num_training_steps, num_cycles=num_cycles)
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, fall)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Like the cosine schedule, ending at a floor.

    Args:
        optimizer: has the initial learning rate as its default ``lr``.
        num_warmup_steps: steps from 0 to the initial learning rate.
        num_training_steps: where the floor is reached.
        num_cycles: waves of the cosine.
        last_epoch: the last step done, when the optimizer's state holds its initial learning rates.
        min_lr: the floor as a learning rate; exclusive with ``min_lr_rate``.
        min_lr_rate: the floor as a share of the initial learning rate.

    Raises:
        ConfigurationError: neither or both of ``min_lr`` and ``min_lr_rate``.
    """
    if (min_lr is None) == (min_lr_rate is None):
        raise ConfigurationError(
            f"cosine_with_min_lr was given min_lr={min_lr} and min_lr_rate={min_lr_rate}. Set one of the two in "
            "lr_scheduler_kwargs: min_lr is a learning rate, min_lr_rate a share of the initial one."
        )
    floor = (min_lr or 0.0) / optimizer.defaults["lr"] if min_lr_rate is None else min_lr_rate
    fall = partial(
        curves.cosine_down, start=num_warmup_steps, end=num_training_steps, num_cycles=num_cycles, floor=floor
    )
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, fall)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm-up in a line from 0, then down to the learning rate ``lr_end`` along ``(1 - progress) ** power``.

    Raises:
        ConfigurationError: ``lr_end`` is not below the optimizer's default ``lr``.
    """
    initial = optimizer.defaults["lr"]
    if not initial > lr_end:
        raise ConfigurationError(
            f"polynomial falls to lr_end={lr_end} from the initial learning rate {initial}, which is not above it. "
            "Set a smaller lr_end in lr_scheduler_kwargs, or a larger learning_rate."
        )
    fall = partial(
        curves.polynomial_down, start=num_warmup_steps, end=num_training_steps, floor=lr_end / initial, power=power
    )
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, fall)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Warm-up in a line from 0, then down with the inverse root of the step.

    ``timescale`` (by default the warm-up, or 10,000 without one) is the number of steps after which the rate,
    counted from its top, has fallen to ``1 / sqrt(2)``.
    """
    scale = (num_warmup_steps or 10_000) if timescale is None else timescale
    fall = partial(curves.inverse_root, shift=scale - num_warmup_steps, timescale=scale)
    return _after_warmup(optimizer, num_warmup_steps, last_epoch, fall)


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, stay, decay, and end at ``min_lr_ratio`` of the initial learning rate.

    Args:
        optimizer: what is scheduled.
        num_warmup_steps: steps of the rise, which starts at ``min_lr_ratio``.
        num_decay_steps: steps of the fall.
        num_training_steps: all steps; what warm-up and decay leave of them is stable.
        num_stable_steps: steps in between; goes before ``num_training_steps``.
        warmup_type: "linear", "cosine" or "1-sqrt".
        decay_type: the same three.
        min_lr_ratio: the floor, as a share of the initial learning rate.
        num_cycles: waves of a cosine decay.
        last_epoch: the last step done, when the optimizer's state holds its initial learning rates.

    Raises:
        ConfigurationError: an unknown type, or neither ``num_training_steps`` nor ``num_stable_steps``.
    """
    for argument, value in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if value not in curves.EASES:
            raise ConfigurationError(
                f"warmup_stable_decay was given {argument}={value!r}. Set one of {', '.join(curves.EASES)}."
            )
    if num_stable_steps is None and num_training_steps is None:
        raise ConfigurationError(
            "warmup_stable_decay needs num_training_steps or num_stable_steps, to know when the decay starts."
        )
    stable = (
        num_stable_steps
        if num_stable_steps is not None
        else (num_training_steps or 0) - num_warmup_steps - num_decay_steps
    )
    curve = partial(
        curves.warmup_stable_decay,
        warmup=num_warmup_steps,
        stable=stable,
        decay=num_decay_steps,
        rise=warmup_type,
        fall=decay_type,
        floor=min_lr_ratio,
        num_cycles=num_cycles,
    )
    return _scheduler(optimizer, curve, last_epoch)


class ReduceOnPlateau(ReduceLROnPlateau):
    """torch's, with a state that is JSON: an infinity (no metric seen yet) is left out of it."""

    def state_dict(self) -> dict[str, Any]:
        """The state without its infinities, which a new scheduler has by itself."""
        return {key: value for key, value in super().state_dict().items() if value not in (math.inf, -math.inf)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class, or one of torch's."""
        super().load_state_dict(state_dict)
        if "best" not in state_dict:
            self.best = self.mode_worse


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **kwargs: Any) -> ReduceOnPlateau:
    """Lower the learning rate when the metric given to ``step`` stops improving; kwargs as torch's."""
    return ReduceOnPlateau(optimizer, **kwargs)


def get_adafactor_schedule(optimizer: Adafactor, initial_lr: float = 0.0) -> AdafactorSchedule:
    """The scheduler for an ``Adafactor`` that computes its own step size."""
    return AdafactorSchedule(optimizer, initial_lr)


SCHEDULES: Mapping[SchedulerType, Callable[..., LRScheduler]] = {
    SchedulerType.LINEAR: get_linear_schedule_with_warmup,
    SchedulerType.COSINE: get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.POLYNOMIAL: get_polynomial_decay_schedule_with_warmup,
    SchedulerType.CONSTANT: get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: get_constant_schedule_with_warmup,
    SchedulerType.INVERSE_SQRT: get_inverse_sqrt_schedule,
    SchedulerType.REDUCE_ON_PLATEAU: ReduceOnPlateau,
    SchedulerType.COSINE_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup,
    SchedulerType.WARMUP_STABLE_DECAY: get_wsd_schedule,
}

_HORIZON = ("num_warmup_steps", "num_training_steps")


def get_scheduler(
    name: str | SchedulerType,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> LRScheduler:
    """Make the schedule called ``name``.

    Unlike the reference, which drops what a schedule does not use, every keyword argument is used or refused; so
    ``timescale`` reaches ``inverse_sqrt``.

    Args:
        name: one of the ten of ``SchedulerType``.
        optimizer: what is scheduled.
        num_warmup_steps: needed by all but ``constant`` and ``reduce_lr_on_plateau``.
        num_training_steps: optimizer steps of the whole run, warm-up included.
        scheduler_specific_kwargs: ``lr_scheduler_kwargs``.

    Raises:
        ConfigurationError: an unknown name, a number of steps that the schedule needs and did not get, or keyword
            arguments that it does not take or cannot do without.
    """
    choice = SchedulerType(name)
    make = SCHEDULES[choice]
    parameters = dict(inspect.signature(make).parameters)
    del parameters["optimizer"]
    horizon = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    taken = {key: horizon[key] for key in _HORIZON if key in parameters}
    for key, value in taken.items():
        if value is None and parameters[key].default is inspect.Parameter.empty:
            raise ConfigurationError(f"lr_scheduler_type={choice.value!r} requires {key}, and got None. Set {key}.")
    kwargs = dict(scheduler_specific_kwargs or {})
    options = {key: parameter for key, parameter in parameters.items() if key not in _HORIZON}
    _check_kwargs(choice.value, kwargs, options)
    return make(optimizer, **taken, **kwargs)


def _check_kwargs(name: str, kwargs: Mapping[str, Any], options: Mapping[str, inspect.Parameter]) -> None:
    unknown = [key for key in kwargs if key not in options]
    missing = [
        key for key, parameter in options.items() if parameter.default is inspect.Parameter.empty and key not in kwargs
    ]
    accepted = f"{name} accepts {', '.join(options)}"
    if unknown:
        raise ConfigurationError(
            f"lr_scheduler_type={name!r} does not take {', '.join(unknown)} in lr_scheduler_kwargs={dict(kwargs)}; "
            f"{accepted}."
        )
    if missing:
        raise ConfigurationError(
            f"lr_scheduler_type={name!r} needs {', '.join(missing)} in lr_scheduler_kwargs={dict(kwargs)}; {accepted}."
        )
