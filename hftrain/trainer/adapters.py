"""What the core calls, each method handing on to one overridable method of the Trainer. Alive for one run."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hftrain.checkpoint.ranks import StorageRefusedError
from hftrain.trainer.background import go_on_without, in_background_if_wanted, settle
from hftrain.trainer.counters import settle_counts
from hftrain.trainer.overrides import is_replaced
from hftrain.trainer.stepping import check_share, warn_if_count_is_ignored
from hftrain.types.choices import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hftrain.trainer.trainer import Trainer

_LOSS_METHODS = ("training_step", "compute_loss", "_prepare_inputs", "_prepare_input")


class TrainerTask:
    """A plain `nn.Module` as the task of the loop: a micro-batch is the Trainer's `training_step`."""

    counts_items = False

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._training_step = _with_count(trainer.training_step)
        self._model = trainer.model_wrapped
        self._epoch: Any = None
        self._is_checked = self._is_tidy = False
        self._checks_count = False  # from the first step on that has several micro-batches
        self._may_check_count = (
            trainer.model_accepts_loss_kwargs
            and trainer.compute_loss_func is None
            # What an override makes of the count is its own affair, and calling it once more could have effects.
            and not any(is_replaced(trainer, name) for name in _LOSS_METHODS)
        )
        self.draws_steps = (
            trainer._uses_count() or trainer.args.past_index >= 0 or is_replaced(trainer, "get_batch_samples")
        )
        """Whether a step's micro-batches are drawn by `draw_step`."""

    def begin_step(self, num_batches: int, *, is_counted: bool = False) -> None:
        """Tell the Trainer how many micro-batches the coming steps have."""
        self._trainer.current_gradient_accumulation_steps = num_batches
        self._checks_count = self._may_check_count and is_counted and num_batches > 1

    def count_items(self, group: Sequence[Any]) -> None:
        """Count nothing: `draw_step` does."""

    def draw_step(self, batches: Iterator[Any], num_batches: int) -> tuple[Sequence[Any], Any]:
        """Call `Trainer.get_batch_samples`; memories of an epoch end with it."""
        trainer = self._trainer
        if batches is not self._epoch:
            self._epoch, trainer._past = batches, None
        return trainer.get_batch_samples(batches, num_batches, trainer._running_engine().device)

    def forward_backward(self, batch: Any, num_items: Tensor | None) -> Tensor:
        """Call `Trainer.training_step`."""
        if self._checks_count:
            warn_if_count_is_ignored(self._trainer, batch, num_items)
            self._checks_count = self._may_check_count = False  # now, since out of memory means once more
        share: Any = self._training_step(self._model, batch, num_items)
        if not self._is_checked:
            check_share(share)
            self._is_checked = True
            self._is_tidy = not isinstance(share, Tensor) or not (share.dim() or share.requires_grad)
        return share if self._is_tidy else share.detach().reshape(())  # type: ignore[no-any-return]


class TrainerActions:
    """What the loop asks for, as the Trainer's methods do it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._told: str | None = None
        # An override of the older kind takes the row alone.
        self._start = (time.time(),) if _takes(trainer.log, 2) else ()

    def log(self, logs: dict[str, float]) -> None:
        """Call `Trainer.log`, with the time at which training began if it takes that."""
        settle_counts(self._trainer)
        self._trainer.log(logs, *self._start)

    def evaluate(self, *, skip_scheduler: bool = False) -> None:
        """Call `Trainer.evaluate` and judge the result."""
        settle_counts(self._trainer)
        self._trainer._evaluate_in_training(skip_scheduler=skip_scheduler)

    def save(self) -> None:
        """Call `Trainer._save_checkpoint`; listeners hear of it once it is committed, now or after a later step.

        Listeners may change what was committed. A storage that refused is a warning, and the next save tries again.
        """
        trainer = self._trainer
        settle_counts(trainer)
        settle(trainer, wait=True)
        if trainer._interrupts is not None:
            trainer._interrupts.note_save(trainer.state.global_step)
        trainer._best_before_save = trainer.state.best_model_checkpoint
        try:
            with in_background_if_wanted(trainer):
                trainer._save_checkpoint(trainer.model, None)
            self._tell()
        except StorageRefusedError as error:
            trainer.control.should_save = False
            if trainer._interrupts is not None:
                trainer._interrupts.saved_step = None
            go_on_without(trainer, error)

    def _tell(self) -> None:
        trainer = self._trainer
        if trainer._checkpoints is not None and trainer._checkpoints.background.is_writing:
            trainer.control.should_save = False
            return
        before = self._told
        self._told = None if trainer._checkpoints is None else trainer._checkpoints.newest
        # A Trainer of one's own may have saved elsewhere: what was told of before is no news.
        is_news = self._told is not None and self._told != before
        trainer.callback_handler.emit(Event.SAVE, **({"checkpoint": self._told} if is_news else {}))
        if trainer._checkpoints is not None:
            trainer._checkpoints.amend()


def _with_count(training_step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that takes the count as third argument; an override of the older kind does not."""
    if _takes(training_step, 3):
        return training_step
    return lambda model, inputs, num_items: training_step(model, inputs)


def _takes(function: Callable[..., Any], num_positional: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * num_positional)
    except TypeError:
        return False
    return True
