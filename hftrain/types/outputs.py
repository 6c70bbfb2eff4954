"""What training, evaluation, prediction and a search return, and what metrics are computed from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
    Arrays: TypeAlias = Array | tuple[Array, ...]


IGNORED_LABEL = -100
"""The label that losses and metrics leave out, by the field's convention; it also fills up narrower batches."""


class EvalPrediction:
    """What ``compute_metrics`` receives: the model's answers beside the truth, over the whole data set.

    Unpacks as ``predictions, label_ids``, followed by ``inputs`` and ``losses`` when they were asked for
    with ``include_for_metrics``.

    Attributes:
        predictions: (samples, ...), or a tuple of such arrays when the model answers with several.
        label_ids: (samples, ...), or a tuple of them.
        inputs: (samples, ...) of the model's main input, or None.
        losses: (samples,), or None.
    """

    def __init__(
        self,
        predictions: Arrays,
        label_ids: Arrays,
        inputs: Arrays | None = None,
        losses: Arrays | None = None,
    ) -> None:
        self.predictions = predictions
        self.label_ids = label_ids
        self.inputs = inputs
        self.losses = losses
        optional = tuple(part for part in (inputs, losses) if part is not None)
        self.elements: tuple[Any, ...] = (predictions, label_ids, *optional)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.elements)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self.elements):
            raise IndexError(f"EvalPrediction[{index}]: it has the parts 0 to {len(self.elements) - 1}.")
        return self.elements[index]


class EvalLoopOutput(NamedTuple):
    """What one pass over a data set gave.

    Attributes:
        predictions: (samples, ...), a tuple of such arrays, or None when only the loss was computed.
        label_ids: (samples, ...), a tuple of such arrays, or None without labels.
        metrics: By name, prefixed.
        num_samples: How many samples were seen, over all ranks.
    """

    predictions: Arrays | None
    label_ids: Arrays | None
    metrics: dict[str, float] | None
    num_samples: int | None


class PredictionOutput(NamedTuple):
    """What ``predict`` returns.

    Attributes:
        predictions: (samples, ...), or a tuple of such arrays.
        label_ids: (samples, ...), a tuple of such arrays, or None without labels.
        metrics: By name, prefixed with ``test_``.
    """

    predictions: Arrays | None
    label_ids: Arrays | None
    metrics: dict[str, float] | None


class TrainOutput(NamedTuple):
    """What ``train`` returns.

    Attributes:
        global_step: Optimizer updates done.
        training_loss: The mean loss of the updates that this call made.
        metrics: Runtime and throughput, prefixed with ``train_``.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class _DocumentedBestRun(NamedTuple):
    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, Any]
    run_summary: Any | None = None


class BestRun(_DocumentedBestRun):
    """The best trial of a search: the documented four as a tuple, and what it left behind as attributes.

    Attributes:
        run_id: The trial's name; several, joined, when a search with several objectives has no single best.
        objective: The value that was searched for, one for each objective.
        hyperparameters: What the trial was run with.
        run_summary: What the backend adds, or None.
        checkpoint: The folder of the trial's best checkpoint, or None.
        step: The update at which the objective was reached, or None.
        metrics: What was evaluated there, or None.
    """

    checkpoint: str | None = None
    step: int | None = None
    metrics: dict[str, float] | None = None

    def __new__(
        cls,
        run_id: str,
        objective: float | list[float],
        hyperparameters: dict[str, Any],
        run_summary: Any | None = None,
        *,
        checkpoint: str | None = None,
        step: int | None = None,
        metrics: dict[str, float] | None = None,
    ) -> Self:
        """A tuple of the first four; the keyword-only ones become attributes."""
        run = super().__new__(cls, run_id, objective, hyperparameters, run_summary)
        run.checkpoint, run.step, run.metrics = checkpoint, step, metrics
        return run
