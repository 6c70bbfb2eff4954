"""What the core calls, each method handing on to one overridable method of the Trainer. Alive for one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hftrain.types.choices import Event

if TYPE_CHECKING:
    from torch import Tensor

    from hftrain.trainer.trainer import Trainer


class TrainerTask:
    """A plain `nn.Module` as the task of the loop: a micro-batch is the Trainer's `training_step`."""

    counts_items = False

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._training_step = trainer.training_step
        self._model = trainer.model_wrapped

    def begin_step(self, num_batches: int, *, is_counted: bool = False) -> None:
        """Tell the Trainer by what an uncounted loss is divided."""
        self._trainer.current_gradient_accumulation_steps = num_batches

    def count_items(self, group: Sequence[Any]) -> None:
        """Count nothing: the micro-batches' losses are averaged."""

    def forward_backward(self, batch: Any, num_items: Tensor | None) -> Tensor:
        """Call `Trainer.training_step`."""
        if num_items is None:
            return self._training_step(self._model, batch)
        return self._training_step(self._model, batch, num_items)


class TrainerActions:
    """What the loop asks for, as the Trainer's methods do it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def log(self, logs: dict[str, float]) -> None:
        """Call `Trainer.log`."""
        self._trainer.log(logs)

    def evaluate(self, *, skip_scheduler: bool = False) -> None:
        """Call `Trainer.evaluate` and judge the result."""
        self._trainer._evaluate_in_training(skip_scheduler=skip_scheduler)

    def save(self) -> None:
        """Call `Trainer._save_checkpoint`; listeners hear of it once it is committed."""
        trainer = self._trainer
        trainer._save_checkpoint(trainer.model, trial=None)
        trainer.callback_handler.emit(Event.SAVE)
