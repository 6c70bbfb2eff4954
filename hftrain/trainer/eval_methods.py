"""Evaluation and prediction: overridable methods over `hftrain.core.evaluator`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from hftrain.core.task import TaskModule
from hftrain.data.dealing import length_of
from hftrain.errors import ConfigurationError, DataError
from hftrain.trainer.evaluation import (
    PREDICTION,
    gives_loss,
    labels_of,
    logits_of,
    mean_loss,
    run_loop,
    task_prediction,
    timed_loop,
)
from hftrain.trainer.report_methods import ReportMethods
from hftrain.trainer.stepping import call_model, past_of
from hftrain.trainer.tracing import traced
from hftrain.types.outputs import EvalLoopOutput, PredictionOutput

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader


class EvalMethods(ReportMethods):
    """Evaluate, predict, and judge what is best."""

    _averages_batches = False  # True: the mean loss counts every batch alike, however many samples it has

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate, log the row and return it.

        The loss is the mean over the samples. Metrics come from ``compute_metrics``, or from the task.

        Args:
            eval_dataset: a data set, a loader, the name of one of the evaluation sets, or a dict of named ones; None
                takes the Trainer's own.
            ignore_keys: outputs of a model that are not predictions; None takes what its config names.
            metric_key_prefix: put before every name; a named set adds its own (``eval_<set>_loss``).

        All ranks must call this.
        """
        self._set_up_data("evaluate")
        data = self._evaluation_sets() if eval_dataset is None else eval_dataset
        if isinstance(data, dict):
            named = {name: name for name in data} if eval_dataset is None else data
            return self._evaluate_each(named, ignore_keys, metric_key_prefix)
        return self._evaluate_one(data, ignore_keys, metric_key_prefix)

    def _evaluate_each(self, sets: dict[str, Any], ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, data in sets.items():
            own = self.evaluate(eval_dataset=data, ignore_keys=ignore_keys, metric_key_prefix=f"{prefix}_{name}")
            metrics.update(own)
        return metrics

    def _evaluate_one(self, data: Any, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        with self._memory_tracker.stage("eval") as add_memory:
            loader = self.get_eval_dataloader(data)
            has_metrics = self.compute_metrics is not None or isinstance(self.model, TaskModule)
            options = {"prediction_loss_only": None if has_metrics else True}
            output = timed_loop(self, loader, "Evaluation", prefix=prefix, ignore_keys=ignore_keys, **options)
            metrics: dict[str, float] = output.metrics  # type: ignore[assignment]
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            add_memory(metrics)
        return metrics

    def predict(
        self, test_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predict over ``test_dataset`` (None: the DataModule's predict data, or its test data).

        Where dimension 1 differs between batches, predictions and labels are padded with -100.

        Returns:
            Predictions and labels as numpy arrays in the data set's order, and the metrics if there are labels. With
            ``args.prediction_loss_only`` just the loss, and None for the others.

        All ranks must call this.
        """
        with self._memory_tracker.stage("test") as add_memory:
            loader = self.get_test_dataloader(self._prediction_data() if test_dataset is None else test_dataset)
            output = timed_loop(self, loader, PREDICTION, prefix=metric_key_prefix, ignore_keys=ignore_keys)
            metrics: dict[str, float] = output.metrics  # type: ignore[assignment]
            self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
            add_memory(metrics)
        return PredictionOutput(predictions=output.predictions, label_ids=output.label_ids, metrics=metrics)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Call `prediction_step` with every batch and compute the metrics; `evaluate` and `predict` call this.

        Args:
            dataloader: any iterable of batches.
            description: "Prediction" keeps the predictions for the caller, whatever the metrics need.
            prediction_loss_only: compute the loss alone; None takes ``args.prediction_loss_only``.
            ignore_keys: as for `prediction_step`.
            metric_key_prefix: put before every name.

        All ranks must call this.
        """
        return run_loop(
            self,
            dataloader,
            description,
            loss_only=prediction_loss_only,
            ignore_keys=ignore_keys,
            prefix=metric_key_prefix,
        )

    def prediction_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Do what `evaluation_loop` does over a loader with a length; called with ``use_legacy_prediction_loop``.

        Raises:
            DataError: the loader has no length.
        """
        if length_of(dataloader) is None:
            raise DataError(
                f"use_legacy_prediction_loop=True needs a dataloader with __len__, and {type(dataloader).__name__} has "
                "none. Set use_legacy_prediction_loop=False."
            )
        return run_loop(
            self,
            dataloader,
            description,
            loss_only=prediction_loss_only,
            ignore_keys=ignore_keys,
            prefix=metric_key_prefix,
            with_preparation=False,
        )

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Return loss, predictions and labels of one batch, each None where there is none.

        A loss is computed if all of ``label_names`` are in the batch.

        Args:
            model: the model, or its trace.
            inputs: one batch as the loader gave it; not moved to the device yet.
            prediction_loss_only: return the loss alone.
            ignore_keys: outputs that are not predictions; None takes what the model's config names.
        """
        if isinstance(self.model, TaskModule):
            return task_prediction(self, self.model, inputs)
        has_loss = gives_loss(self, inputs)
        inputs = self._prepare_inputs(inputs)
        labels = labels_of(self, inputs) if has_loss else None
        loss, outputs = self._run_model(model, inputs, has_loss=has_loss)
        if prediction_loss_only:
            return loss, None, None
        return loss, logits_of(self, outputs, ignore_keys, has_loss=has_loss), labels

    @torch.no_grad()
    def _run_model(self, model: nn.Module, inputs: dict[str, Any], *, has_loss: bool) -> tuple[Any, Any]:
        with self.compute_loss_context_manager():
            if has_loss:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
                return self._running_engine().float_outputs(mean_loss(loss)), outputs
            outputs = call_model(model, inputs, label_names=self.label_names)
        if self.args.past_index >= 0:
            self._past = past_of(outputs, self.args.past_index - 1)  # there is no loss before it
        return None, outputs

    def torch_jit_model_eval(self, model: nn.Module, dataloader: Any, training: bool = False) -> nn.Module:
        """Return the model traced with the first batch of ``dataloader``, as ``jit_mode_eval`` asks.

        Returns:
            The traced model; in training, or where it cannot be traced (a warning says why), the model itself.
        """
        return model if training else traced(self, model, dataloader)

    # ---- in training ------------------------------------------------------------------------------------

    def _evaluate_in_training(self, *, skip_scheduler: bool) -> None:
        """Evaluate as a step of `train`: let a plateau schedule and the best metric know."""
        # Overrides need not know the flag, which the evaluation before the first step sets.
        flags = {"skip_scheduler": True} if skip_scheduler else {}
        metrics = self._evaluate(None, self._ignore_keys_for_eval, **flags)
        if skip_scheduler:  # before the first step there is nothing to compare, and no checkpoint to point at
            return
        is_best = self._determine_best_metric(metrics, None)
        if self.args.save_strategy == "best":
            self.control.should_save = is_best

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
    ) -> dict[str, float]:
        metrics = self.evaluate(ignore_keys=ignore_keys_for_eval)
        if not skip_scheduler and hasattr(self.lr_scheduler, "num_bad_epochs"):
            self.lr_scheduler.step(self._metric_to_watch(metrics))
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self.args.metric_for_best_model is None:
            return False
        value, best = self._metric_to_watch(metrics), self.state.best_metric
        if best is None:
            best = -math.inf if self.args.greater_is_better else math.inf
        is_best = value > best if self.args.greater_is_better else value < best
        if is_best:
            self.state.best_metric = value
            self.state.best_global_step = self.state.global_step
        return is_best

    def _metric_to_watch(self, metrics: dict[str, float]) -> float:
        wanted = self.args.metric_for_best_model or "loss"
        name = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
        if name not in metrics:
            raise ConfigurationError(
                f"metric_for_best_model={wanted!r} needs the metric {name!r}, and the evaluation produced "
                f"{', '.join(sorted(metrics))}. Set metric_for_best_model to one of these."
            )
        return float(metrics[name])

    # ---- the data ---------------------------------------------------------------------------------------

    def _evaluation_sets(self) -> Any:
        """Return one set, a dict of named ones, or None, which an overridden `get_eval_dataloader` may know."""
        return self.datamodule.eval_data() if self.datamodule is not None else self.eval_dataset

    def _prediction_data(self) -> Any:
        if self.datamodule is not None:
            stage = "predict" if self.datamodule.has("predict") else "test"
            self._set_up_data(stage)
            return self.datamodule.predict_data() if stage == "predict" else self.datamodule.test_data()
        raise ConfigurationError("predict() was called without data, and the Trainer has no datamodule. Pass the data.")
