"""An override of `Trainer._maybe_log_save_evaluate`, called as the reference's loop calls it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hftrain.trainer.counters import settle_counts
from hftrain.trainer.overrides import is_overridden

if TYPE_CHECKING:
    from collections.abc import Callable

    from hftrain.core.runner import LoopRunner
    from hftrain.trainer.trainer import Trainer


def reactions_of(trainer: Trainer) -> Callable[[LoopRunner], None] | None:
    """Return what the loop calls after each step and epoch instead of reacting by itself; None without an override.

    The override finds the window's loss in its first argument, and ``_globalstep_last_logged`` and
    ``_total_loss_scalar`` on the Trainer. If it sets the former to the current step it has logged the row itself.
    """
    if not is_overridden(type(trainer), "_maybe_log_save_evaluate"):
        return None
    started = time.time()

    def react(runner: LoopRunner) -> None:
        control = trainer.control
        if control.should_log or control.should_evaluate or control.should_save:
            settle_counts(trainer)
        trainer._globalstep_last_logged = runner.last_logged_step
        trainer._total_loss_scalar = runner.losses.total
        trainer._maybe_log_save_evaluate(
            runner.losses.pending(runner.engine.device),
            runner.grad_norm,
            trainer.model,
            None,
            runner.position.epoch,
            trainer._ignore_keys_for_eval,
            started,
            learning_rate=runner.learning_rate,
        )
        if trainer._globalstep_last_logged > runner.last_logged_step:
            runner.skip_row()

    return react
