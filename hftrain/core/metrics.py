"""Metrics, met by what they can do: torchmetrics that are updated batch by batch, and what functions return."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from hftrain.core.ports import Engine
from hftrain.errors import TaskError

MetricValue = float | list[Any]
Output = Mapping[str, Any]
"""What a step gives for one batch: "loss" (a scalar), "preds", "target", and whatever else a metric takes."""


class MetricSet:
    """The metrics of one pass, met by what they can do: ``update``, ``compute``, ``reset``. Nothing else is kept.

    Args:
        metrics: one metric, a collection, or a dict of them.
        engine: whose device they are moved to.
        by_name: give each what its ``update`` names; else predictions and labels in this order, and inputs and losses
            where it names them.
    """

    def __init__(self, metrics: Any, *, engine: Engine, by_name: bool = True) -> None:
        self._metrics = _named_metrics(metrics, origin="configure_metrics()" if by_name else "compute_metrics")
        self._parameters = {name: _update_parameters(metric) for name, metric in self._metrics.items()}
        self._engine, self._by_name, self._is_fed = engine, by_name, False
        for metric in self._metrics.values():
            if hasattr(metric, "to"):
                metric.to(engine.device)
            metric.reset()

    def add(self, output: Output, size: int, *, is_last: bool) -> None:
        """Update every metric with one batch's outputs."""
        if size == 0 or not (self._by_name or has_answers(output)):
            return
        self._is_fed = True
        for name, metric in self._metrics.items():
            taken = self._parameters[name]
            if not self._by_name:
                named = {key: output[key] for key in ("inputs", "losses") if key in output and key in (taken or ())}
                metric.update(output["preds"], output["target"], **named)
                continue
            if taken is None:
                metric.update(**{key: value for key, value in output.items() if key != "loss"})
                continue
            missing = [key for key, required in taken.items() if required and key not in output]
            if missing:
                raise TaskError(
                    f"The metric {name!r} ({type(metric).__name__}) takes {', '.join(taken)}, and eval_step returned "
                    f"{sorted(output)}. Return {', '.join(map(repr, missing))} too."
                )
            metric.update(**{key: output[key] for key in taken if key in output})

    def compute(self) -> dict[str, MetricValue]:
        """Return name -> value over all ranks, and start afresh. All ranks must call this."""
        values: dict[str, MetricValue] = {}
        if not any(self._engine.gather_object(self._is_fed)):
            return values
        for name, metric in self._metrics.items():
            with warnings.catch_warnings():
                # A rank that had fillers only has updated nothing, and computes what the others found.
                warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
                value = metric.compute()
            values.update(_flattened(name, value, is_collection=self._parameters[name] is None))
            metric.reset()
        return values


def are_metrics(candidate: Any) -> bool:
    """Whether this is a metric, a collection, or a dict of metrics, rather than a function."""
    return isinstance(candidate, Mapping) or _is_metric(candidate)


def _named_metrics(metrics: Any, *, origin: str) -> dict[str, Any]:
    if _is_collection(metrics):
        return {"collection": metrics}
    if _is_metric(metrics):
        return {type(metrics).__name__: metrics}
    if not isinstance(metrics, Mapping):
        raise TaskError(
            f"{origin} is a {type(metrics).__name__}. Give a dict of torchmetrics metrics or a MetricCollection."
        )
    for name, metric in metrics.items():
        if not _is_metric(metric):
            raise TaskError(
                f"{origin}[{name!r}] is a {type(metric).__name__} without update, compute and reset. Give a "
                "torchmetrics Metric."
            )
    return dict(metrics)


def _is_metric(candidate: Any) -> bool:
    return all(hasattr(candidate, name) for name in ("update", "compute", "reset"))


def _is_collection(metrics: Any) -> bool:
    return _is_metric(metrics) and hasattr(metrics, "items")


def _update_parameters(metric: Any) -> dict[str, bool] | None:
    """Return parameter -> whether it is required; None for a collection, which filters for itself."""
    if _is_collection(metric):
        return None
    parameters = inspect.signature(metric.update).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: p.default is p.empty for p in named}


def _flattened(name: str, value: Any, *, is_collection: bool) -> dict[str, MetricValue]:
    if isinstance(value, Mapping):
        prefix = "" if is_collection else f"{name}_"
        flat: dict[str, MetricValue] = {}
        for key, entry in value.items():
            flat.update(_flattened(f"{prefix}{key}", entry, is_collection=False))
        return flat
    if isinstance(value, Tensor):
        return {name: value.item() if value.numel() == 1 else value.tolist()}
    return {name: value}


def has_answers(outputs: Mapping[str, Any]) -> bool:
    """Whether there are both predictions and labels."""
    return outputs.get("preds") is not None and outputs.get("target") is not None


def plain_metrics(result: Any, function: Any) -> dict[str, Any]:
    """Return what a metric function returned, numpy and torch scalars as Python's.

    Raises:
        TaskError: it is no mapping.
    """
    if not isinstance(result, Mapping):
        name = getattr(function, "__name__", type(function).__name__)
        raise TaskError(
            f"compute_metrics ({name}) returned {type(result).__name__} ({result!r:.60}). Return a dict: metric's name "
            "-> value."
        )
    return {str(name): _plain(value) for name, value in result.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(entry) for entry in value)
    is_scalar = isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1)
    return value.item() if is_scalar else value
