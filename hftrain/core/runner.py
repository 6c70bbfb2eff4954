"""`LoopRunner`: the training loop over step groups."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hftrain.core.drawing import Draw, StepDrawer
from hftrain.core.endings import StepEnds
from hftrain.core.horizon import Horizon
from hftrain.core.interrupts import Interrupts, OpenStep, StopAsked, Unfinished
from hftrain.core.loop_settings import LoopSettings
from hftrain.core.meters import LossWindow, Meters
from hftrain.core.ports import BatchFitter, Engine, EpochSource, EventSink, RunActions, Scheduler, Task
from hftrain.core.position import Position
from hftrain.errors import TaskError
from hftrain.types.choices import Event
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState

logger = logging.getLogger(__name__)

# Looking a member up on an Enum costs more than calling a callback that does nothing.
_STEP_BEGIN, _SUBSTEP_END, _STEP_END = Event.STEP_BEGIN, Event.SUBSTEP_END, Event.STEP_END
_PRE_OPTIMIZER_STEP, _OPTIMIZER_STEP = Event.PRE_OPTIMIZER_STEP, Event.OPTIMIZER_STEP


class _StepDoesNotFitError(Exception):
    """A step needs more memory than there is; the fitter will make its batches smaller."""


class LoopRunner(StepEnds):
    """Train: draw step groups, step, and react to the flags that the listeners set.

    Args:
        task: what is computed.
        engine: where it is computed.
        source: the training batches.
        optimizer: over the task's trainable parameters.
        scheduler: stepped once per optimizer step that moved the weights; None when it steps on metrics.
        settings: see `LoopSettings`.
        horizon: where the run ends.
        state: counters that listeners read; advanced here.
        control: flags that listeners set; read here.
        events: told what happens.
        actions: asked to log, evaluate and save.
        meters: the task's own scalars, or None.
        position: where in the data to start.
        losses: the loss window to go on with.
        restore_rng: puts back the random state of a checkpoint; called once, where the run was cut.
        draw: takes the micro-batches of one step from the iterator, at most as many as it is told, and returns them
            with the count of their items or None; by default as many as wanted, and the task counts.
        fitter: makes batches smaller when a step runs out of memory; None lets the error end the run.
        read_rate: gives the learning rate for the rows after each update; None: the first group's.
        react: called after each step and epoch; by default `react`, which it may call.
        interrupts: what is asked of the run from outside; None: nothing ever.
        unfinished: what a run that was stopped left to do where this one goes on.
        open_step: the step that it was stopped in.
    """

    def __init__(
        self,
        *,
        task: Task,
        engine: Engine,
        source: EpochSource,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler | None,
        settings: LoopSettings,
        horizon: Horizon,
        state: TrainerState,
        control: TrainerControl,
        events: EventSink,
        actions: RunActions,
        meters: Meters | None = None,
        position: Position | None = None,
        losses: LossWindow | None = None,
        restore_rng: Callable[[], None] | None = None,
        draw: Draw | None = None,
        fitter: BatchFitter | None = None,
        read_rate: Callable[[], Tensor | float] | None = None,
        react: Callable[[LoopRunner], None] | None = None,
        interrupts: Interrupts | None = None,
        unfinished: Unfinished | None = None,
        open_step: OpenStep | None = None,
    ) -> None:
        self.task = task
        self.engine = engine
        self.source = source
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.settings = settings
        self.horizon = horizon
        self.state = state
        self.control = control
        self.events = events
        self.actions = actions
        self.meters = meters
        self.position = position or Position()
        self.losses = losses or LossWindow(filter_nonfinite=settings.filter_nonfinite_losses)
        self.grad_norm: Tensor | float | None = None
        self.learning_rate: Tensor | float = optimizer.param_groups[0]["lr"]
        self._restore_rng = restore_rng
        self._fitter = fitter
        self._read_rate = read_rate or (lambda: optimizer.param_groups[0]["lr"])
        self._react = react or LoopRunner.react
        self._interrupts = interrupts or Interrupts()
        self._open_step = open_step
        self._left_by_stopped = unfinished or Unfinished()
        self._drawer = StepDrawer(task, self._interrupts.before_drawing, draw)
        self._start_afresh()

    def _start_afresh(self) -> None:
        """Set what is counted and noted while the loop runs."""
        self.unfinished = Unfinished()
        """What this run leaves to do, once it was stopped."""
        self._ending: Event | None = None
        self._event_left: Event | None = None
        self._is_evaluating = False
        self._num_rows = 0
        self._batches_left: int | None = None
        self._kind_of_step = (0, False)
        self._is_counting: bool | None = None
        self.last_logged_step = self.losses.steps_closed

    def fit(self) -> None:
        """Train until the horizon, or until a listener asks to stop. All ranks must call this.

        Raises:
            StopAsked: it was asked to stop in between. What is there then is whole: `unfinished` says what is left.
        """
        # An exception in an earlier run may have left gradients; and the engine learns which optimizer this run has.
        self.engine.zero_grad(self.optimizer)
        try:
            self._fit()
        except StopAsked:
            self._make_whole()
            raise

    def _fit(self) -> None:
        self.events.emit(Event.TRAIN_BEGIN)
        self._interrupts.check()
        if self.settings.eval_on_start:
            self._interrupts.arm()
            self.actions.evaluate(skip_scheduler=True)
            self._interrupts.disarm()
        if self._left_by_stopped:
            self._do_what_was_left()
        while self._has_more():
            self._run_epoch()
            if self.control.should_training_stop:
                break

    def _has_more(self) -> bool:
        if self.control.should_training_stop:
            return False
        return self.position.epoch < self.horizon.num_train_epochs and self.state.global_step < self.horizon.max_steps

    def train_loss(self) -> float:
        """Return the mean loss over all steps since step 0. All ranks must call this, after `fit`."""
        self.losses.close(self.state.global_step, self._mean_over_ranks)
        return self.losses.total / max(self.state.global_step, 1)

    # ---- one epoch --------------------------------------------------------------------------------

    def _run_epoch(self) -> None:
        position = self.position
        # At an epoch's start the loader's own draw from the generator is still to come; later it is behind us.
        if position.batches == 0 and self._open_step is None:
            self._put_back_rng()
        self.events.emit(Event.EPOCH_BEGIN)
        if self._train_on_what_fits():
            position.next_epoch()
        self._end(Event.EPOCH_END)

    def _train_on_what_fits(self) -> bool:
        batches = self._opened()
        while True:
            try:
                return self._train_on(batches)
            except _StepDoesNotFitError:
                del batches  # with its workers; and go on outside the handler, whose error has the step's memory
            assert self._fitter is not None  # the error is raised only with one
            batches = self._fitter.reopen(self)

    def _opened(self) -> Iterator[Any]:
        done, step = self.position, self._open_step
        skipped = 0 if step is None else step.num_skipped
        with self._interrupts.at_once(if_=done.batches + skipped > 0):  # batches may be loaded to be thrown away
            batches = self.source.open(
                done.epoch,
                samples_done=done.samples + skipped * (self.source.global_batch_size or 0),
                batches_done=done.batches + skipped,
            )
        if step is not None and step.is_drawn:
            step.rewind_rng()  # its micro-batches are drawn once more
        else:
            self._put_back_rng()
        return batches

    def _train_on(self, batches: Iterator[Any]) -> bool:
        """Step through an epoch's batches; return whether the epoch is over, or the run ended inside it."""
        starts_whole, step_before = self.position.batches == 0, self.state.global_step
        self._batches_left = self.source.remaining(
            samples_done=self.position.samples, batches_done=self.position.batches
        )
        if self._batches_left is not None and self.source.num_batches is not None:
            # The position may come from a run with other batches.
            self.position.batches = self.source.num_batches - self._batches_left
        for group, num_batches, num_items in self._groups(batches):
            if self._run_step(group, num_batches, num_items):
                self._end(_STEP_END)
            if self._ends_epoch():
                return self.control.should_epoch_stop or self._batches_left == 0
        if self.state.global_step == step_before and starts_whole:
            logger.warning(
                "Epoch %d yielded no batch: training stops at step %d of %d. A generator gives its samples once; set "
                "max_steps to no more steps than they make, or give a data set that starts again.",
                self.position.epoch,
                self.state.global_step,
                self.horizon.max_steps,
            )
            self.control.should_training_stop = True
        return True

    @property
    def drawn_from(self) -> Any:
        """The random state that the step's micro-batches were drawn from, where they were drawn at once."""
        return self._drawer.drawn_from

    def _groups(self, batches: Iterator[Any]) -> Iterator[tuple[Iterable[Any], int, Any]]:
        """Yield (micro-batches of one step, how many, the count of their items if it is known already)."""
        accumulation = self.settings.accumulation_steps
        while True:
            wanted = accumulation if self._batches_left is None else min(accumulation, self._batches_left)
            if wanted <= 0:
                return
            skipped = 0 if self._open_step is None else self._open_step.num_skipped
            is_exact = self.source.exact_length
            group, num_batches, num_items = self._drawer.draw(batches, wanted - skipped, is_exact=is_exact)
            if not num_batches:
                self._drawer.warn_ended_early(self.source.num_batches, self.position.batches)
                return
            yield group, num_batches + skipped, num_items

    # ---- one step ---------------------------------------------------------------------------------

    def _run_step(self, group: Iterable[Any], num_batches: int, num_items: Any = None) -> bool:
        """Do one optimizer step over the group's micro-batches; return whether it was done to the end.

        Reads nothing back from the device.
        """
        emit, engine, task = self.events.emit, self.engine, self.task
        emit(_STEP_BEGIN)
        if task.counts_items:
            num_items = self._count_items(group)
        kind = (num_batches, num_items is not None)
        if kind != self._kind_of_step:
            task.begin_step(num_batches, is_counted=num_items is not None)
            self._kind_of_step = kind
        if self._open_step is not None:
            group = self._reentered(self._open_step, group)
        accumulate = self._accumulate if self._fitter is None else self._accumulate_if_it_fits
        if not accumulate(group, num_batches, num_items):
            return self._abandon_step()
        if self.settings.max_grad_norm > 0:
            self.grad_norm = engine.clip(self.settings.max_grad_norm)
        else:
            engine.unscale()  # listeners see gradients, not gradients times fp16's loss scale
        emit(_PRE_OPTIMIZER_STEP)
        stepped = engine.optimizer_step(self.optimizer)
        emit(_OPTIMIZER_STEP)
        self.learning_rate = self._read_rate()
        if stepped and self.scheduler is not None:
            self.scheduler.step()
        # Also after a skipped step, or its infinities stay in every later sum.
        engine.zero_grad(self.optimizer)
        self._advance(num_batches)
        return True

    def _reentered(self, step: OpenStep, group: Iterable[Any]) -> Iterable[Any]:
        """Go back into the step that the run was stopped in; return the micro-batches that are left of it."""
        step.put_gradients()
        self._put_back_rng()
        return tuple(group)[step.done :] if step.is_drawn else group

    def _accumulate(self, group: Iterable[Any], num_batches: int, num_items: Any) -> bool:
        """Run forward and backward of every micro-batch; return whether none was left out."""
        engine, losses, control, left = self.engine, self.losses.shares, self.control, num_batches
        forward_backward, interrupts = self.task.forward_backward, self._interrupts
        if self._open_step is not None:
            left, self._open_step = num_batches - self._open_step.done, None
        for batch in group:
            left -= 1
            if num_batches > 1:
                engine.set_sync(left == 0 or self.settings.sync_each_batch)
            losses.append(forward_backward(batch, num_items))
            if left:
                self.events.emit(_SUBSTEP_END)
                if control.should_epoch_stop or control.should_training_stop:
                    return False
                if interrupts.after_micro_batch():
                    is_drawn = isinstance(group, Sequence)
                    self.unfinished = Unfinished(done=num_batches - left, of=num_batches, is_drawn=is_drawn)
                    interrupts.check()
        return True

    def _accumulate_if_it_fits(self, group: Iterable[Any], num_batches: int, num_items: Any) -> bool:
        assert self._fitter is not None  # the caller checks
        shares, meters = self.losses.shares.copy(), self.meters.copy() if self.meters is not None else None
        outcome = self._fitter.attempt(lambda: self._accumulate(group, num_batches, num_items))
        if outcome is not None:
            return outcome
        # The step will be made again, of smaller batches: what this attempt recorded is taken back.
        self.losses.shares = shares
        if self.meters is not None and meters is not None:
            self.meters.restore(meters)
        raise _StepDoesNotFitError

    def _abandon_step(self) -> bool:
        """Leave a window in the middle, as a listener asked: its gradients and its place in the data are given up."""
        self.engine.zero_grad(self.optimizer)
        self.engine.set_sync(True)
        return False

    def _count_items(self, group: Iterable[Any]) -> Tensor | None:
        count = self.task.count_items(group if isinstance(group, Sequence) else tuple(group))
        self._check_counting(count is not None)
        if count is None:
            return None
        device = self.engine.device
        if not isinstance(count, Tensor):
            count = torch.tensor(count)
        return self.engine.reduce_sum(count.to(device, non_blocking=True))

    def _check_counting(self, is_counting: bool) -> None:
        """Raise unless every step on every rank counts, or none does: the others would wait in the sum forever."""
        if self._is_counting is None:
            answers = set(self.engine.gather_object(is_counting))
            self._is_counting = is_counting if len(answers) == 1 else None
        if self._is_counting is not is_counting:
            raise TaskError(
                "count_items returned None for some steps or processes and a count for others. Return a count always "
                "(0 where there is nothing to count), or None always."
            )

    def _advance(self, num_batches: int) -> None:
        state, position, source = self.state, self.position, self.source
        position.batches += num_batches
        if self._batches_left is not None:
            self._batches_left -= num_batches
        if source.global_batch_size is not None:
            position.samples += num_batches * source.global_batch_size
            if source.num_samples is not None and position.samples > source.num_samples:
                position.samples = source.num_samples
        state.global_step += 1
        per_epoch = source.num_batches or self.horizon.max_steps * self.settings.accumulation_steps
        state.epoch = position.epoch + position.batches / per_epoch
        every = self.settings.empty_cache_steps
        if every is not None and state.global_step % every == 0:
            self.engine.empty_cache()
