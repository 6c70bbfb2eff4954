"""When to log, evaluate, save and stop, as the arguments say."""

from __future__ import annotations

from typing import Any

from hftrain.types.callback import TrainerCallback, without_keywords
from hftrain.types.choices import IntervalStrategy, SaveStrategy
from hftrain.types.control import TrainerControl

# On Python 3.11 looking up an enum's member costs more than comparing with it, and this runs every step.
_STEPS, _EPOCH = IntervalStrategy.STEPS, IntervalStrategy.EPOCH
_SAVE_STEPS, _SAVE_EPOCH = SaveStrategy.STEPS, SaveStrategy.EPOCH


class DefaultFlowCallback(TrainerCallback):
    """Sets the control's switches by the strategies of the arguments; without it a run never logs or stops.

    With strategy ``steps`` a switch is set at every multiple of its steps, with ``epoch`` at the end of
    every epoch. ``eval_delay`` holds evaluation back until that many steps, or epochs, are done. At
    ``max_steps`` training stops, and with ``save_strategy="steps"`` what it reached is saved.
    """

    @without_keywords
    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Set the switches that depend on the number of steps."""
        step = state.global_step
        if step == 1 and args.logging_first_step:
            control.should_log = True
        if args.logging_strategy == _STEPS and state.logging_steps > 0 and step % state.logging_steps == 0:
            control.should_log = True
        if (
            args.eval_strategy == _STEPS
            and state.eval_steps > 0
            and step % state.eval_steps == 0
            and args.eval_delay <= step
        ):
            control.should_evaluate = True
        if args.save_strategy == _SAVE_STEPS and state.save_steps > 0 and step % state.save_steps == 0:
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True
            if args.save_strategy == _SAVE_STEPS:
                control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Set the switches that depend on the epoch."""
        if args.logging_strategy == _EPOCH:
            control.should_log = True
        if args.eval_strategy == _EPOCH and args.eval_delay <= state.epoch:
            control.should_evaluate = True
        if args.save_strategy == _SAVE_EPOCH:
            control.should_save = True
