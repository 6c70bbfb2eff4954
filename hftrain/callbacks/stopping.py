"""Stop when the metric no longer gets better."""

from __future__ import annotations

import logging
import math
from typing import Any

from hftrain.errors import ConfigurationError
from hftrain.types.callback import TrainerCallback
from hftrain.types.choices import IntervalStrategy
from hftrain.types.control import ExportableState, TrainerControl

logger = logging.getLogger(__name__)


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Stops training after a number of evaluations in a row that did not improve ``metric_for_best_model``.

    An evaluation improves when it beats ``state.best_metric``, the best of all before it, by more than
    the threshold, in the direction of ``greater_is_better``. How many did not is kept in checkpoints.

    Args:
        early_stopping_patience: Evaluations without improvement after which to stop.
        early_stopping_threshold: How much better is better, in units of the metric.

    Raises:
        ConfigurationError: When training begins without ``metric_for_best_model`` or with
            ``eval_strategy="no"``, and when an evaluation does not give that metric.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.early_stopping_patience_counter = 0

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Check that there will be something to compare."""
        if args.metric_for_best_model is None:
            raise ConfigurationError(
                "EarlyStoppingCallback compares evaluations by metric_for_best_model, and that is None. "
                'Set it, for example metric_for_best_model="loss".'
            )
        if args.eval_strategy == IntervalStrategy.NO:
            raise ConfigurationError(
                'EarlyStoppingCallback compares evaluations, and eval_strategy="no" makes none. '
                'Set eval_strategy="epoch" or "steps".'
            )
        if not args.load_best_model_at_end:
            logger.warning(
                "EarlyStoppingCallback with load_best_model_at_end=False leaves the last model at the end of training, "
                "which is not the best one."
            )

    def on_evaluate(  # type: ignore[override]  # documented: the metrics have a position
        self, args: Any, state: Any, control: TrainerControl, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Compare with the best evaluation before this one."""
        asked = args.metric_for_best_model
        if asked is None:  # evaluated alone: training would not have begun
            return
        name = asked if asked.startswith("eval_") else f"eval_{asked}"
        if name in metrics:
            self.check_metric_value(args, state, control, metrics[name])
            if self.early_stopping_patience_counter >= self.early_stopping_patience:
                control.should_training_stop = True
        elif "eval_runtime" in metrics:
            # Without it this is one of several named evaluation sets, and another one has the metric.
            raise ConfigurationError(
                f"metric_for_best_model={asked!r} asks for {name}, and evaluation gave {', '.join(sorted(metrics))}. "
                "Set it to one of these."
            )

    def check_metric_value(self, args: Any, state: Any, control: TrainerControl, metric_value: float) -> None:
        """Start counting afresh after an improvement, or count one more without."""
        best = state.best_metric
        if best is None or math.isnan(best) or self._improvement(args, metric_value, best):
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1

    def _improvement(self, args: Any, metric_value: float, best: float) -> bool:
        gain = metric_value - best if args.greater_is_better else best - metric_value
        return gain > 0 and gain > (self.early_stopping_threshold or 0.0)

    def state(self) -> dict[str, Any]:
        """Patience and threshold, and how many evaluations in a row did not improve."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }
