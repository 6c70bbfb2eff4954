"""The interface of a callback: one method an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hftrain.types.control import TrainerControl

_Method = TypeVar("_Method", bound=Callable[..., Any])


def without_keywords(method: _Method) -> _Method:
    """Mark a callback's method as one that reads no keyword argument: it is then called without any.

    Building them takes longer than what such a method does; it matters only in the events of a step.
    """
    method.reads_keywords = False  # type: ignore[attr-defined]
    return method


class TrainerCallback:
    """Watches a run and steers it; override the events you need, the others cost nothing.

    Every method receives

    * ``args``: the run's ``TrainingArguments``;
    * ``state``: the ``TrainerState``; read it, and leave it as it is;
    * ``control``: the ``TrainerControl`` whose switches ask the loop to log, evaluate, save or stop;
      change it in place (returning it is allowed too);
    * and as keyword arguments, of which a method names those it wants and takes the rest as ``**kwargs``:
      ``model`` (the user's module), ``processing_class`` (tokenizer, image processor or the like),
      ``optimizer``, ``lr_scheduler``, ``train_dataloader`` and ``eval_dataloader`` (the one in use, or
      None). An event that brings something more says so below.

    Callbacks are called in the order of the list, on every process; what only one of them should do
    (print, write a file) asks ``state.is_world_process_zero``. A value computed on an accelerator should
    not be read in the events of a step: reading waits for the device.

    What a callback raises stops the run as a ``CallbackError`` that names the callback and the event.

    Example:
        ::

            class StopWhenPerfect(TrainerCallback):
                def on_evaluate(self, args, state, control, metrics, **kwargs):
                    control.should_training_stop = metrics["eval_accuracy"] == 1.0
    """

    def on_init_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """The trainer is built; no data was read yet."""

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """Training begins: model, optimizer and schedule are ready, a resumed state is loaded."""

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """Training ended; with ``load_best_model_at_end`` the best model is loaded."""

    def on_epoch_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An epoch begins."""

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An epoch ended; the loop asks afterwards whether to log, evaluate and save."""

    def on_step_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An optimizer step begins, before its first micro-batch."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """The gradients are complete and clipped, the weights not yet updated."""

    def on_optimizer_step(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """The weights are updated, the gradients not yet zeroed."""

    def on_substep_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A micro-batch of gradient accumulation is done, and it was not the step's last."""

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An optimizer step is done and counted; the loop asks afterwards whether to log, evaluate and save."""

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """An evaluation is done. Also brings ``metrics``: its values by name, ``eval_loss`` and the like.

        With several named evaluation sets it is called once for each, with that set's metrics.
        """

    def on_predict(
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, float], **kwargs: Any
    ) -> TrainerControl | None:
        """A prediction is done, ``metrics`` being its values by name."""

    def on_save(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A checkpoint was written."""

    def on_log(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        """A row is logged. Also brings ``logs``: the row; with its step it is the last of ``state.log_history``."""

    def on_prediction_step(
        self, args: Any, state: Any, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """A batch of an evaluation or prediction is done."""
