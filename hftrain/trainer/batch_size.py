"""A batch size that fits into memory, found while a run goes on: ``auto_find_batch_size``."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hftrain.core.counting import ObservedSource
from hftrain.data.epochs import EpochLoader
from hftrain.errors import ConfigurationError, HardwareError
from hftrain.hardware.memory import is_out_of_memory
from hftrain.hardware.seeding import rng_state, set_rng_state
from hftrain.optim.stretching import is_stretchable, move_end
from hftrain.trainer.run_length import horizon_from, horizon_of, training_source
from hftrain.trainer.settings import dealing_of, loop_settings

if TYPE_CHECKING:
    from hftrain.core.runner import LoopRunner
    from hftrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)


def smaller_batch_size(size: int, *, divides: int | None = None, multiple_of: int = 1) -> int:
    """Return half of ``size``, or the next smaller size that is possible; 0 when there is none.

    Args:
        size: the batch size that was too large.
        divides: a number of samples that batches of the new size should make up exactly.
        multiple_of: the number of processes that a batch is split over.
    """
    half = size // 2 - size // 2 % multiple_of
    possible = (new for new in range(half, 0, -multiple_of) if divides is None or divides % new == 0)
    return next(possible, 0)


@contextmanager
def accumulation_restored(trainer: Trainer) -> Iterator[None]:
    """Give ``gradient_accumulation_steps`` back as it was at the end of a run that may have raised it."""
    args, asked = trainer.args, trainer.args.gradient_accumulation_steps
    try:
        yield
    finally:
        args.gradient_accumulation_steps = asked


def restore_batch_size(trainer: Trainer, found: int | None) -> None:
    """Start with the batch size that was found before the checkpoint, unless a smaller one is asked for now."""
    if trainer.args.auto_find_batch_size and found is not None and found < trainer._train_batch_size:
        set_batch_size(trainer, found)


def set_batch_size(trainer: Trainer, size: int) -> None:
    """Train with ``size`` samples a batch from now on, and with as many batches a step as keep it, if that is asked.

    The raised number stands in ``args.gradient_accumulation_steps`` until the run ends, because overrides of
    `training_step` divide by it.
    """
    args = trainer.args
    if args.auto_batch_keep_global:
        samples = trainer._train_batch_size * args.gradient_accumulation_steps
        args.gradient_accumulation_steps = math.ceil(samples / size)
    trainer._train_batch_size = size


class BatchSizeFitter:
    """Halves the batch size whenever a step runs out of memory, and lets the run go on where it is.

    Weights, optimizer, schedule, counters and the place in the data stay: the step that did not fit is made again,
    its samples in smaller batches. With several processes each step's gradients are averaged after all have said that
    they had the memory (`EngineSettings.defer_sync`); that costs a host read a step.

    Out of memory in the optimizer, in evaluation or in saving ends the run: a smaller training batch would not help.
    A module whose forward waits for the other processes itself (SyncBatchNorm) cannot be fitted on several of them.
    """

    def __init__(self, trainer: Trainer) -> None:
        """Fit the batches of ``trainer``, for one run."""
        self._trainer = trainer
        self._engine = trainer._running_engine()
        self._message = ""
        self._remember_counts()

    def attempt(self, accumulate: Callable[[], bool]) -> bool | None:
        """Return what ``accumulate`` does, or None where it ran out of memory on any process.

        All ranks must call this.
        """
        outcome: bool | None = None
        try:
            outcome = accumulate()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._message = str(error).partition("\n")[0]
        # Not in the handler: it would keep the activations in the frames of the error.
        if not self._all_had_memory(outcome is not None):
            return None
        self._engine.average_gradients()
        self._remember_counts()
        return outcome

    def _all_had_memory(self, had_memory: bool) -> bool:
        if not had_memory:
            self._free_memory()
        if self._engine.world_size == 1:
            return had_memory
        failed = torch.tensor(0 if had_memory else 1, device=self._engine.device)
        return int(self._engine.reduce_sum(failed)) == 0

    def _free_memory(self) -> None:
        assert self._trainer.optimizer is not None  # a run has one
        self._engine.zero_grad(self._trainer.optimizer)
        gc.collect()
        self._engine.empty_cache()

    def reopen(self, loop: LoopRunner) -> Iterator[Any]:
        """Make the loop's batches smaller and return those left of its epoch. All ranks must call this.

        Raises:
            HardwareError: not even one sample fits.
            ConfigurationError: the Trainer's loader does not follow the batch size.
        """
        trainer, position = self._trainer, loop.position
        self._free_memory()
        self._engine.set_sync(True)
        self._forget_counts()
        before = trainer._train_batch_size
        set_batch_size(trainer, self._next_size())
        source = self._smaller_source(loop)
        position.batches = position.samples // (source.global_batch_size or 1)
        loop.settings = replace(loop.settings, accumulation_steps=loop_settings(trainer.args).accumulation_steps)
        self._extend(loop, source)
        logger.warning(
            "Out of memory in step %d with %d samples a batch: going on with %d, %d batches a step, %d steps in all.",
            loop.state.global_step + 1,
            before,
            trainer._train_batch_size,
            loop.settings.accumulation_steps,
            loop.horizon.max_steps,
        )
        return self._open(loop)

    def _next_size(self) -> int:
        trainer, args = self._trainer, self._trainer.args
        global_size = trainer._train_batch_size * args.gradient_accumulation_steps
        is_split = dealing_of(args).split_batches
        size = smaller_batch_size(
            trainer._train_batch_size,
            divides=global_size if args.auto_batch_keep_global else None,
            multiple_of=self._engine.world_size if is_split else 1,
        )
        if size == 0:
            said = next((message for message in self._engine.gather_object(self._message) if message), "out of memory")
            raise HardwareError(
                "No executable batch size found: auto_find_batch_size=True came down to batches of "
                f"{trainer._train_batch_size}, and a training step of that still runs out of memory ({said}). Make the "
                "model or its inputs smaller, or set gradient_checkpointing=True or bf16=True."
            )
        return size

    def _smaller_source(self, loop: LoopRunner) -> EpochLoader:
        source, before = training_source(self._trainer), loop.source.global_batch_size
        source.load_order(loop.source.order())
        # Behind which of the drawn batches the data set's own state would be is not known here: it skips.
        source.load_place(replace(loop.source.place(is_inside=True), stream=None) if source.remembers else None)
        now = source.global_batch_size
        if now is None or before is None or now >= before:
            raise ConfigurationError(
                f"auto_find_batch_size=True asks for batches of {self._trainer._train_batch_size} samples now, and the "
                f"training loader's batches have {now or 'an unknown number of'} samples over all processes as before. "
                "Give a data set instead of a loader, let get_train_dataloader read self._train_batch_size, or set "
                "auto_find_batch_size=False."
            )
        loop.source = loop.source.over(source) if isinstance(loop.source, ObservedSource) else source
        self._trainer.callback_handler.train_dataloader = source.loader
        return source

    def _extend(self, loop: LoopRunner, source: EpochLoader) -> None:
        """Set where the run ends: where its data ends, in steps of the new size."""
        trainer, state, steps = self._trainer, loop.state, loop.horizon.max_steps
        loop.horizon = horizon_from(
            horizon_of(trainer, source), source, loop.settings, loop.position, global_step=state.global_step
        )
        state.train_batch_size = trainer._train_batch_size
        state.num_train_epochs, state.max_steps = loop.horizon.num_train_epochs, loop.horizon.max_steps
        state.compute_steps(trainer.args, state.max_steps)
        if loop.horizon.max_steps != steps and trainer._created_lr_scheduler and loop.scheduler is not None:
            self._lengthen_schedule(loop, steps)

    def _lengthen_schedule(self, loop: LoopRunner, steps: int) -> None:
        """Let the schedule, made for so many steps, end with the run.

        The rate goes on from where it is. A schedule that cannot be stretched, or has not begun, is replaced by one of
        the new length, as far advanced.
        """
        trainer, groups, before = self._trainer, loop.optimizer.param_groups, self._trainer.lr_scheduler
        if is_stretchable(before) and before.last_epoch > 0:
            move_end(before, length=steps, end=loop.horizon.max_steps)
            return
        rates = [group["lr"] for group in groups]
        trainer.lr_scheduler = None
        trainer.create_scheduler(num_training_steps=loop.horizon.max_steps, optimizer=loop.optimizer)
        for name in ("last_epoch", "_step_count", "_last_lr"):
            if hasattr(before, name):
                setattr(trainer.lr_scheduler, name, getattr(before, name))
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        loop.scheduler = trainer.callback_handler.lr_scheduler = trainer.lr_scheduler

    def _open(self, loop: LoopRunner) -> Iterator[Any]:
        """Open the epoch where it is, in the order it had; the random states stay what they are."""
        position, now = loop.position, rng_state()
        try:
            return loop.source.open(position.epoch, samples_done=position.samples, batches_done=position.batches)
        finally:
            set_rng_state(now)

    def _remember_counts(self) -> None:
        counter = self._trainer._token_counter
        self._num_tokens = counter.num_tokens if counter is not None else 0
        self._flos = self._trainer.current_flos

    def _forget_counts(self) -> None:
        """Take back what was counted of the batches of the step that did not fit."""
        if self._trainer._token_counter is not None:
            self._trainer._token_counter.rewind(self._num_tokens)
        self._trainer.current_flos = self._flos
