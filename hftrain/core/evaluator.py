"""`Evaluator`: stream a data set through a task's `eval_step` or `predict_step`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hftrain.core.batches import batch_size, describe_batch, first_batch_errors, leaves
from hftrain.core.meters import Meters
from hftrain.core.ports import Engine, EpochSource, EventSink
from hftrain.core.task import TaskModule, TaskRun
from hftrain.errors import DataError, TaskError
from hftrain.types.choices import Event

MetricValue = float | list[Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one pass over a data set gave.

    Attributes:
        metrics: name -> value, reduced over all ranks, without prefix.
        num_samples: samples seen over all ranks.
        num_batches: batches of this rank.
        predictions: a nest of host tensors, samples along dimension 0 in the data set's order; None in `evaluate`.
        targets: the same for "target" of `TaskModule.eval_step`; None when there is none.
    """

    metrics: dict[str, MetricValue]
    num_samples: int
    num_batches: int
    predictions: Any = None
    targets: Any = None


class Evaluator:
    """Run a task without gradients over a loader, on every rank at once.

    Metrics stream: each batch updates them on the device, predictions are not kept.

    Args:
        task: put in eval mode for the pass and back afterwards.
        engine: where it runs.
        events: told after each batch.
        host_every: with predictions, move them to the host every so many batches; None at the end only.
    """

    def __init__(self, *, task: TaskModule, engine: Engine, events: EventSink, host_every: int | None = None) -> None:
        self.task = task
        self.engine = engine
        self.events = events
        self.host_every = host_every

    def evaluate(self, source: EpochSource, *, loss_only: bool = False) -> Outcome:
        """Return the mean loss, what `eval_step` logged, and the task's metrics. All ranks must call this."""
        metrics = MetricSet({} if loss_only else self.task.configure_metrics(), engine=self.engine)
        return self._pass(source, "eval_step", metrics.update, metrics)

    def predict(self, source: EpochSource) -> Outcome:
        """Return predictions in the data set's order. All ranks must call this.

        A task that overrides `predict_step` is asked for nothing else, so its data needs no labels; otherwise
        `eval_step` gives predictions, targets and metrics.
        """
        if type(self.task).predict_step is not TaskModule.predict_step:
            predictions = _HostBuffer(self.engine, "predict_step", every=self.host_every)
            outcome = self._pass(source, "predict_step", predictions.add, MetricSet({}))
            return Outcome(**{**vars(outcome), "predictions": predictions.join()})
        metrics = MetricSet(self.task.configure_metrics(), engine=self.engine)
        predictions = _HostBuffer(self.engine, "eval_step", every=self.host_every)
        targets = _HostBuffer(self.engine, "eval_step", every=self.host_every)

        def consume(output: Any, size: int) -> None:
            metrics.update(output, size)
            predictions.add(_required(output, "preds", self.task), size)
            if output.get("target") is not None:
                targets.add(output["target"], size)

        outcome = self._pass(source, "eval_step", consume, metrics)
        joined = {"predictions": predictions.join(), "targets": targets.join()}
        return Outcome(**{**vars(outcome), **joined})

    def _pass(
        self, source: EpochSource, step_name: str, consume: Callable[[Any, int], None], metrics: MetricSet
    ) -> Outcome:
        engine, task = self.engine, self.task
        own_binding = task._run is None
        run = task.bind(engine, training=False) if own_binding else task._run
        assert run is not None  # bound just above
        modes, kept_meters = [(module, module.training) for module in task.modules()], run.meters
        run.meters, losses = Meters(), Meters()
        task.eval()
        try:
            with torch.no_grad(), engine.full_eval(task):
                samples, batches = self._steps(source, step_name, consume, run, losses)
            values: dict[str, MetricValue] = dict(losses.close(engine.gather_object))
            values.update(run.meters.close(engine.gather_object))
            values.update(metrics.compute())
            total = sum(engine.gather_object(samples))
        finally:
            run.meters = kept_meters
            for module, training in modes:  # a part that the user froze in eval mode stays so
                module.training = training
            if own_binding:
                task.unbind()
        return Outcome(metrics=values, num_samples=total, num_batches=batches)

    def _steps(
        self,
        source: EpochSource,
        step_name: str,
        consume: Callable[[Any, int], None],
        run: TaskRun,
        losses: Meters,
    ) -> tuple[int, int]:
        step, to_device = self.engine.unwrapped_step(step_name), self.engine.to_device
        samples = batches = 0
        for index, loaded in enumerate(source.open(0)):
            batch = to_device(loaded)
            known = source.num_real(index)
            real = batch_size(batch) if known is None else known
            kept = run.meters
            if real == 0:
                # A filler keeps the ranks in step where a forward needs all of them; nothing of it counts.
                run.meters = Meters()
            output = self._first(step, step_name, batch) if batches == 0 else step(batch)
            if real and isinstance(output, Mapping) and "loss" in output and step_name == "eval_step":
                losses.add("loss", _scalar_loss(output["loss"], self.task), real)
            run.meters = kept
            consume(output, real)
            samples, batches = samples + real, batches + 1
            self.events.emit(Event.PREDICTION_STEP)
        return samples, batches

    def _first(self, step: Callable[[Any], Any], step_name: str, batch: Any) -> Any:
        with first_batch_errors(f"{type(self.task).__name__}.{step_name}", batch):
            output = step(batch)
        if step_name == "eval_step" and not isinstance(output, Mapping):
            raise TaskError(
                f"{type(self.task).__name__}.eval_step returned {type(output).__name__}. "
                'Return a dict: {"loss": ..., "preds": ..., "target": ...}.'
            )
        return output


class MetricSet:
    """The metrics of one pass, met by what they can do: ``update``, ``compute``, ``reset``."""

    def __init__(self, metrics: Any, *, engine: Engine | None = None) -> None:
        self._metrics = _named_metrics(metrics)
        self._parameters = {name: _update_parameters(metric) for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            if engine is not None and hasattr(metric, "to"):
                metric.to(engine.device)
            metric.reset()

    def update(self, output: Mapping[str, Any], num_samples: int) -> None:
        """Feed one batch's outputs to every metric, by the names that its ``update`` takes."""
        if num_samples == 0:
            return
        for name, metric in self._metrics.items():
            taken = self._parameters[name]
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
        """Return name -> value over all ranks. All ranks must call this."""
        values: dict[str, MetricValue] = {}
        for name, metric in self._metrics.items():
            values.update(_flattened(name, metric.compute(), is_collection=self._parameters[name] is None))
            metric.reset()
        return values


def _named_metrics(metrics: Any) -> dict[str, Any]:
    if _is_collection(metrics):
        return {"collection": metrics}
    if not isinstance(metrics, Mapping):
        raise TaskError(
            f"configure_metrics returned {type(metrics).__name__}. Return a dict of torchmetrics metrics or a "
            "MetricCollection."
        )
    for name, metric in metrics.items():
        if not all(hasattr(metric, method) for method in ("update", "compute", "reset")):
            raise TaskError(
                f"configure_metrics()[{name!r}] is a {type(metric).__name__} without update, compute and reset. "
                "Return a torchmetrics Metric."
            )
    return dict(metrics)


def _is_collection(metrics: Any) -> bool:
    return all(hasattr(metrics, name) for name in ("update", "compute", "reset", "items"))


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


def _scalar_loss(loss: Any, task: TaskModule) -> Tensor | float:
    if isinstance(loss, (int, float)) or (isinstance(loss, Tensor) and loss.numel() == 1):
        return loss
    raise TaskError(
        f'{type(task).__name__}.eval_step returned a "loss" of {describe_batch(loss)}; it must be a scalar: the mean '
        "over the batch."
    )


def _required(output: Mapping[str, Any], key: str, task: TaskModule) -> Any:
    if key not in output:
        raise TaskError(
            f"{type(task).__name__}.eval_step returned {sorted(output)}, without {key!r}, which predict() collects. "
            "Return it too, or write predict_step(batch)."
        )
    return output[key]


class _HostBuffer:
    """Outputs of all ranks in the data set's order, moved to the host now and then."""

    def __init__(self, engine: Engine, step_name: str, *, every: int | None) -> None:
        self._engine = engine
        self._step_name = step_name
        self._every = every
        self._on_device: list[Any] = []
        self._on_host: list[Any] = []

    def add(self, output: Any, size: int) -> None:
        """Take one batch's output. All ranks must call this."""
        for leaf in leaves(output):
            if not isinstance(leaf, Tensor) or leaf.dim() == 0:
                found = "a 0-d tensor" if isinstance(leaf, Tensor) else type(leaf).__name__
                raise DataError(
                    f"{self._step_name} returned {found} to collect; predictions need samples along dimension 0."
                )
        self._on_device.append(self._engine.gather(_map(lambda leaf: leaf[:size], output)))
        if self._every is not None and len(self._on_device) >= self._every:
            self._move()

    def _move(self) -> None:
        self._on_host += [_map(lambda leaf: leaf.cpu(), output) for output in self._on_device]
        self._on_device.clear()

    def join(self) -> Any:
        """Return the nest of concatenated tensors, or None if nothing came."""
        self._move()
        if not self._on_host:
            return None
        return _concatenate(self._on_host, self._step_name)


def _map(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree) if tree.dim() else tree
    if isinstance(tree, Mapping):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return tuple(_map(function, value) for value in tree)
    return tree


def _concatenate(parts: list[Any], step_name: str) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: _concatenate([part[key] for part in parts], step_name) for key in first}
    if isinstance(first, tuple):
        return tuple(_concatenate(list(column), step_name) for column in zip(*parts, strict=True))
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"{step_name} returned tensors whose shapes behind dimension 0 differ between batches: {sorted(shapes)}. "
            "Pad them to one shape."
        )
    return torch.cat(parts)
