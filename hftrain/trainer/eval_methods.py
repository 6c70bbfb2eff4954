"""Evaluation and prediction: overridable methods over `hftrain.core.evaluator`."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hftrain.core.evaluator import Evaluator, Outcome
from hftrain.core.speed import speed_metrics
from hftrain.core.task import TaskModule
from hftrain.data.epochs import EpochLoader
from hftrain.errors import ConfigurationError, NotAvailableError
from hftrain.trainer.report_methods import ReportMethods
from hftrain.types.outputs import PredictionOutput

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class EvalMethods(ReportMethods):
    """Evaluate, predict, and judge what is best."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate, log the row and return it.

        Args:
            eval_dataset: a data set, the name of one of the evaluation sets, or a dict of named ones; None takes
                the Trainer's own.
            ignore_keys: outputs of a model that are not predictions.
            metric_key_prefix: put before every name; a named set adds its own (``eval_<set>_loss``).

        All ranks must call this.
        """
        self._set_up_data("evaluate")
        data = self._evaluation_data() if eval_dataset is None else eval_dataset
        if isinstance(data, dict):
            named: dict[str, float] = {}
            for name, one in data.items():
                key = name if eval_dataset is None else one
                named.update(self.evaluate(key, ignore_keys, f"{metric_key_prefix}_{name}"))
            return named
        started = time.time()
        loader = self.get_eval_dataloader(None if eval_dataset is None else data)
        source = EpochLoader(loader, seed=self.args.seed)
        outcome = self._evaluator(loader).evaluate(source, loss_only=self.args.prediction_loss_only)
        metrics = self._metrics(outcome, metric_key_prefix, started)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predict over ``test_dataset`` (None: the DataModule's predict data, or its test data).

        Returns:
            Predictions and labels as numpy arrays in the data set's order, and the metrics if there are labels. With
            ``args.prediction_loss_only`` just the loss, and None for the others.

        All ranks must call this.
        """
        started = time.time()
        loader = self.get_test_dataloader(self._prediction_data() if test_dataset is None else test_dataset)
        source, evaluator = EpochLoader(loader, seed=self.args.seed), self._evaluator(loader)
        loss_only = self.args.prediction_loss_only
        outcome = evaluator.evaluate(source, loss_only=True) if loss_only else evaluator.predict(source)
        metrics = self._metrics(outcome, metric_key_prefix, started)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(
            predictions=_as_numpy(outcome.predictions), label_ids=_as_numpy(outcome.targets), metrics=metrics
        )

    def _evaluate_in_training(self, *, skip_scheduler: bool) -> None:
        """Evaluate as a step of `train`: let a plateau schedule and the best metric know."""
        metrics = self.evaluate()
        if not skip_scheduler and hasattr(self.lr_scheduler, "num_bad_epochs"):
            self.lr_scheduler.step(self._metric_to_watch(metrics))
        if skip_scheduler:  # before the first step there is nothing to compare, and no checkpoint to point at
            return
        is_best = self._determine_best_metric(metrics)
        if self.args.save_strategy == "best":
            self.control.should_save = is_best

    def _determine_best_metric(self, metrics: dict[str, float]) -> bool:
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

    def _evaluator(self, loader: DataLoader[Any]) -> Evaluator:
        if not isinstance(self.model, TaskModule):
            raise NotAvailableError(
                f"evaluate and predict need a TaskModule in this version, and model is a {type(self.model).__name__}. "
                "Wrap it in a TaskModule with an eval_step."
            )
        engine = self._running_engine()
        engine.place(self.model)
        self.callback_handler.eval_dataloader = loader
        self.callback_handler.bind(self.args, self.state, self.control)
        return Evaluator(
            task=self.model,
            engine=engine,
            events=self.callback_handler,
            host_every=self.args.eval_accumulation_steps,
        )

    def _metrics(self, outcome: Outcome, prefix: str, started: float) -> dict[str, Any]:
        metrics: dict[str, Any] = {f"{prefix}_{name}": value for name, value in outcome.metrics.items()}
        metrics.update(speed_metrics(prefix, started, num_samples=outcome.num_samples, num_steps=outcome.num_batches))
        return metrics

    def _prediction_data(self) -> Any:
        if self.datamodule is not None:
            stage = "predict" if self.datamodule.has("predict") else "test"
            self._set_up_data(stage)
            return self.datamodule.predict_data() if stage == "predict" else self.datamodule.test_data()
        raise ConfigurationError("predict() was called without data, and the Trainer has no datamodule. Pass the data.")


def _as_numpy(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        # numpy has no bfloat16.
        return tree.float().numpy() if str(tree.dtype) == "torch.bfloat16" else tree.numpy()
    if isinstance(tree, dict):
        return {key: _as_numpy(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return tuple(_as_numpy(value) for value in tree)
    return None if tree is None else np.asarray(tree)
