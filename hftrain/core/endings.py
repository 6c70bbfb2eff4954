"""The end of a step or an epoch: listeners are told, rows logged, the model evaluated, the run saved or stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hftrain.core.horizon import Horizon
from hftrain.core.interrupts import Interrupts, StopAsked, Unfinished
from hftrain.core.loop_settings import LoopSettings
from hftrain.core.meters import LossWindow, Meters
from hftrain.core.ports import Engine, EpochSource, EventSink, RunActions
from hftrain.core.position import Position
from hftrain.types.choices import Event
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState


class StepEnds:
    """The part of `LoopRunner` that comes after a step or an epoch; the attributes are explained there."""

    engine: Engine
    source: EpochSource
    horizon: Horizon
    settings: LoopSettings
    state: TrainerState
    control: TrainerControl
    events: EventSink
    actions: RunActions
    meters: Meters | None
    position: Position
    losses: LossWindow
    grad_norm: Tensor | float | None
    learning_rate: Tensor | float
    last_logged_step: int
    unfinished: Unfinished

    _react: Callable[[Any], None]
    _restore_rng: Callable[[], None] | None
    _interrupts: Interrupts
    _left_by_stopped: Unfinished
    _ending: Event | None
    _event_left: Event | None
    _is_evaluating: bool
    _num_rows: int

    def _end(self, event: Event) -> None:
        """Tell the listeners that a step or an epoch is over, and do what they ask for, unless the run is to stop."""
        interrupts, self._ending, self._event_left = self._interrupts, event, event
        interrupts.arm()
        self.events.emit(event)
        self._event_left = None
        interrupts.disarm()
        call = interrupts.after_step()
        if call == "save":
            self.control.should_save = True
        elif call == "stop":
            self._stop()
        self._react(self)
        self._ending = None

    def _ends_epoch(self) -> bool:
        control = self.control
        is_over = self.state.global_step >= self.horizon.max_steps
        return control.should_epoch_stop or control.should_training_stop or is_over

    def _leave_epoch(self) -> None:
        """Go on to the next epoch if nothing of this one is left to train on."""
        position = self.position
        left = self.source.remaining(samples_done=position.samples, batches_done=position.batches)
        if self.control.should_epoch_stop or left == 0:
            position.next_epoch()

    def _stop(self) -> None:
        """Log the row if it is asked for, and leave evaluation and save to the run that goes on."""
        control = self.control
        evaluates, saves = control.should_evaluate, control.should_save
        control.should_evaluate = control.should_save = False
        self._react(self)
        control.should_evaluate, control.should_save = evaluates, saves and evaluates
        raise StopAsked(self._interrupts.code or 0)

    def react(self) -> None:
        """Log, evaluate and save, each if its flag is set."""
        control = self.control
        if control.should_log and self.state.global_step > self.last_logged_step:
            self.actions.log(self._training_row())
        if control.should_evaluate:
            self._num_rows, self._is_evaluating = len(self.state.log_history), True
            self._interrupts.arm()
            self.actions.evaluate()
            self._interrupts.disarm()
            self._is_evaluating = False
        if control.should_save:
            self.actions.save()

    def _make_whole(self) -> None:
        """Bring everything to where a run can go on: random state and rows to before an evaluation that was left."""
        self._put_back_rng()
        interrupts, control = self._interrupts, self.control
        if interrupts.before_evaluation is not None:
            interrupts.random_states.put(interrupts.before_evaluation)
        if self._is_evaluating:
            del self.state.log_history[self._num_rows :]
        if not self.unfinished:
            if self._event_left is None and self._ending is Event.STEP_END and self._ends_epoch():
                self._event_left = Event.EPOCH_END  # it was to follow at once, and no batch leads to it any more
                self._leave_epoch()
            evaluates = self._is_evaluating or control.should_evaluate
            self.unfinished = Unfinished(
                event=None if self._event_left is None else self._event_left.value,
                evaluate=evaluates,
                save=control.should_save and evaluates,
                stop_epoch=control.should_epoch_stop,
                stop_training=control.should_training_stop,
            )

    def _do_what_was_left(self) -> None:
        """Do what the run that was stopped left of the end of its step or epoch."""
        left, control, position = self._left_by_stopped, self.control, self.position
        self._left_by_stopped = Unfinished()
        if left.of:
            return
        self._put_back_rng()
        control.should_evaluate, control.should_save = left.evaluate, left.save
        control.should_epoch_stop, control.should_training_stop = left.stop_epoch, left.stop_training
        if left.event is not None:
            self._end(Event(left.event))
        else:
            self._react(self)
        if left.event == Event.STEP_END.value and self._ends_epoch():
            self._leave_epoch()
            self._end(Event.EPOCH_END)
        if position.batches > 0:
            # Opening the epoch draws random numbers, which the run that was stopped had drawn before.
            states = self._interrupts.random_states
            self._restore_rng = partial(states.put, states.take())

    def _put_back_rng(self) -> None:
        if self._restore_rng is not None:
            self._restore_rng()
            self._restore_rng = None

    def skip_row(self) -> None:
        """End the logging window here: somebody else has logged it. All ranks must call this."""
        self._training_row()

    def _training_row(self) -> dict[str, float]:
        """Make the row of the window that ends here: this is where device values are read."""
        loss, decimals = self.losses.close(self.state.global_step, self._mean_over_ranks), self.settings.loss_decimals
        row = {"loss": loss if decimals is None else round(loss, decimals)}
        if self.grad_norm is not None:
            row["grad_norm"] = float(self.grad_norm)
        row["learning_rate"] = float(self.learning_rate)
        if self.meters is not None:
            row.update(self.meters.close(self.engine.gather_object))
        self.last_logged_step = self.state.global_step
        return row

    def _mean_over_ranks(self, value: float) -> float:
        if self.engine.world_size == 1:
            return value
        total = self.engine.reduce_sum(torch.tensor(value, dtype=torch.float64, device=self.engine.device))
        return float(total) / self.engine.world_size
