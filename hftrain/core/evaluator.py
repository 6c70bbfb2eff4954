"""`Evaluator`: stream a data set through a step without training, and feed what it gives to metrics and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from hftrain.core.batches import batch_size, describe_batch, first_batch_errors
from hftrain.core.interrupts import Interrupts
from hftrain.core.meters import Meters
from hftrain.core.metrics import Output, has_answers, plain_metrics
from hftrain.core.ports import Engine, EpochSource, EventSink
from hftrain.core.predictions import Predictions, gather_rows
from hftrain.core.task import TaskModule
from hftrain.errors import TaskError
from hftrain.types.choices import Event
from hftrain.types.outputs import EvalPrediction


class Step(Protocol):
    """What is evaluated: called with a batch as it was loaded and the number of its samples that count."""

    def __call__(self, batch: Any, size: int) -> Output:
        """Return the outputs for one batch, on the device."""


class Sink(Protocol):
    """Where the outputs go."""

    def add(self, output: Output, size: int, *, is_last: bool) -> None:
        """Take one batch's outputs, of which ``size`` rows count. All ranks must call this."""

    def compute(self) -> dict[str, Any]:
        """Return metrics by name, over all ranks. All ranks must call this."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one pass over a data set gave.

    Attributes:
        metrics: what the sinks computed, name -> value, over all ranks.
        loss: the mean over the samples of all ranks; None when the step gives none.
        num_samples: samples seen over all ranks.
        num_batches: batches of this rank.
    """

    metrics: dict[str, Any]
    loss: float | None
    num_samples: int
    num_batches: int


class Evaluator:
    """Stream a data set through a step, on every rank at once.

    Args:
        engine: where it runs.
        events: told after each batch.
        interrupts: what is asked of the training run that this is part of.
    """

    def __init__(self, *, engine: Engine, events: EventSink, interrupts: Interrupts | None = None) -> None:
        self._engine = engine
        self._events = events
        self._interrupts = interrupts or Interrupts()

    def run(self, source: EpochSource, step: Step, sinks: Sequence[Sink] = ()) -> Outcome:
        """Return what the sinks computed, and the mean loss. All ranks must call this.

        A batch's loss counts as often as the batch has samples, unless the step gives a "loss_weight". The mean is
        read from the device once, at the end.

        Raises:
            StopAsked: the training run is to stop, and the evaluation will be run again.
        """
        losses, samples, batches, interrupts = _Losses(), 0, 0, self._interrupts
        interrupts.begin_evaluation()
        for batch, is_last in _with_last(source.open(0)):
            known = source.num_real(batches)
            size = batch_size(batch) if known is None else known
            output = step(batch, size)
            loss = output.get("loss")
            if loss is not None and size:
                losses.add(loss, output.get("loss_weight", size))
            for sink in sinks:
                sink.add(output, size, is_last=is_last)
            samples, batches = samples + size, batches + 1
            del output, loss  # so that the next batch's outputs need not lie beside these
            self._events.emit(Event.PREDICTION_STEP)
            interrupts.after_evaluation_batch(is_shared=source.deals_evenly)
        metrics: dict[str, Any] = {}
        for sink in sinks:
            metrics.update(sink.compute())
        return Outcome(
            metrics=metrics,
            loss=losses.mean(self._engine),
            num_samples=sum(self._engine.gather_object(samples)),
            num_batches=batches,
        )


class _Losses:
    """The losses of all batches, on the device.

    They are copied into blocks: a small tensor kept from every batch would pin the places that the batch's large ones
    leave free, and memory would grow with the number of batches.
    """

    _BLOCK = 256

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._weights: list[float] = []

    def add(self, loss: Tensor | float, weight: float) -> None:
        """Keep one batch's loss. Never reads a tensor."""
        place = len(self._weights) % self._BLOCK
        if place == 0:
            like = loss if isinstance(loss, Tensor) else torch.zeros(())
            self._blocks.append(torch.zeros(self._BLOCK, dtype=like.dtype, device=like.device))
        self._blocks[-1][place] = loss.detach().reshape(()) if isinstance(loss, Tensor) else loss
        self._weights.append(weight)

    def mean(self, engine: Engine) -> float | None:
        """Return the weighted mean over all ranks, None where there was no loss. All ranks must call this."""
        values = [value for block in self._blocks for value in block.tolist()]
        own = sum(value * weight for value, weight in zip(values, self._weights, strict=False)), sum(self._weights)
        totals, weights = zip(*engine.gather_object(own), strict=True)
        return sum(totals) / sum(weights) if sum(weights) else None


def _with_last(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield each batch and whether it is the last, which is known because the next one is drawn before."""
    current = next(batches, _END)
    while current is not _END:
        following = next(batches, _END)
        yield current, following is _END
        current = following


_END = object()


# ---- what is evaluated ------------------------------------------------------------------------------


class TaskStep:
    """A task's `eval_step` or `predict_step`, in eval mode and without gradients while the context is open.

    Args:
        task: bound to the engine inside, unless a training run has bound it already.
        engine: where it runs.
        name: "eval_step" or "predict_step", whose output becomes "preds".
        needs_preds: whether predictions are collected, so that `eval_step` must return them.
    """

    def __init__(self, task: TaskModule, engine: Engine, name: str = "eval_step", *, needs_preds: bool = False) -> None:
        self._task, self._engine, self._name = task, engine, name
        self._call: Callable[[Any], Any] = engine.unwrapped_step(name)
        self._has_been_called, self._needs_preds = False, needs_preds
        self._inside = ExitStack()

    def __enter__(self) -> TaskStep:
        task = self._task
        modes = [(module, module.training) for module in task.modules()]
        self._inside.callback(_set_modes, modes)  # a part that the user froze in eval mode stays so
        if task._run is None:
            task.bind(self._engine, training=False)
            self._inside.callback(task.unbind)
        run = task._run
        assert run is not None  # bound just above
        self._run = run
        self._inside.callback(setattr, run, "meters", run.meters)
        run.meters = Meters()
        task.eval()
        self._inside.enter_context(torch.no_grad())
        self._inside.enter_context(self._engine.full_eval(task))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside.close()

    def __call__(self, batch: Any, size: int) -> Output:
        """Run the step on the device; what a filler's batch logs counts nowhere."""
        batch, run = self._engine.to_device(batch), self._run
        kept = run.meters
        if size == 0:  # it keeps the ranks in step where a forward needs all of them
            run.meters = Meters()
        output = self._call(batch) if self._has_been_called else self._first(batch)
        run.meters = kept
        if self._name == "predict_step":
            return {"preds": output}
        loss = output.get("loss", 0.0)
        if not isinstance(loss, (int, float)) and not (isinstance(loss, Tensor) and loss.numel() == 1):
            raise TaskError(
                f'{type(self._task).__name__}.eval_step returned a "loss" of {describe_batch(loss)}; it must be a '
                "scalar: the mean over the batch."
            )
        return output  # type: ignore[no-any-return]

    def add(self, output: Output, size: int, *, is_last: bool) -> None:
        """Nothing: what the step logs is in its meters already."""

    def compute(self) -> dict[str, Any]:
        """Return the means of what the step logged. All ranks must call this."""
        return dict(self._run.meters.close(self._engine.gather_object))

    def _first(self, batch: Any) -> Any:
        name = type(self._task).__name__
        with first_batch_errors(f"{name}.{self._name}", batch):
            output = self._call(batch)
        if self._name == "eval_step" and not isinstance(output, Mapping):
            raise TaskError(
                f"{name}.eval_step returned {type(output).__name__}. "
                'Return a dict: {"loss": ..., "preds": ..., "target": ...}.'
            )
        if self._needs_preds and self._name == "eval_step" and "preds" not in output:
            raise TaskError(
                f"{name}.eval_step returned {sorted(output)}, without 'preds', which predict() collects. "
                "Return it too, or write predict_step(batch)."
            )
        self._has_been_called = True
        return output


def _set_modes(modes: list[tuple[torch.nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


# ---- where the outputs go ---------------------------------------------------------------------------


class Collected:
    """Outputs of all ranks in the data set's order: kept for the end, or handed to a function after each batch.

    Args:
        engine: where they come from.
        names: which outputs; None or missing ones are left out.
        is_kept: whether they are kept.
        function: computes metrics. With ``each_batch`` it is called after every batch with the tensors of all ranks
            and ``compute_result``, True with the last one; else once, with numpy arrays.
        every, is_joined, num_samples: as `Predictions` takes them.
        takes_objects: as `gather_rows` takes it.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        *,
        is_kept: bool = True,
        function: Callable[..., Any] | None = None,
        each_batch: bool = False,
        takes_objects: bool = False,
        num_samples: int | None = None,
        every: int | None = None,
        is_joined: bool = True,
    ) -> None:
        self._engine, self._takes_objects = engine, takes_objects
        self._function, self._each_batch = function, each_batch
        options: dict[str, Any] = {"num_samples": num_samples, "every": every, "is_joined": is_joined}
        self._names = names
        self._kept = {name: Predictions(engine, LONG_NAMES[name], **options) for name in names if is_kept}
        self._result: Any = None
        self.arrays: dict[str, Any] = {}
        """Name -> what was collected, once `compute` was called; None for what never came."""

    def add(self, output: Output, size: int, *, is_last: bool) -> None:
        """Gather the batch's outputs. All ranks must call this."""
        gathered = {name: self._gathered(name, output.get(name), size) for name in self._names}
        for name, kept in self._kept.items():
            if gathered[name] is not None:
                kept.add(gathered[name])
        if self._each_batch and self._function is not None and has_answers(gathered):
            batch = {**gathered, "inputs": output.get("batch")}
            self._result = self._function(_prediction(batch), compute_result=is_last)

    def compute(self) -> dict[str, Any]:
        """Join what was kept, and return the function's metrics. All ranks must call this."""
        self.arrays = {name: kept.join() for name, kept in self._kept.items()}
        if self._function is None:
            return {}
        if not self._each_batch:
            if not has_answers(self.arrays):
                return {}
            self._result = self._function(_prediction(self.arrays))
        elif self._result is None:
            return {}
        return plain_metrics(self._result, self._function)

    def _gathered(self, name: str, output: Any, size: int) -> Any:
        if output is None:
            return None
        return gather_rows(self._engine, output, size, name=LONG_NAMES[name], takes_objects=self._takes_objects)


LONG_NAMES = {"preds": "predictions", "target": "labels", "inputs": "inputs", "losses": "losses"}


def _prediction(outputs: Mapping[str, Any]) -> EvalPrediction:
    return EvalPrediction(outputs["preds"], outputs["target"], outputs.get("inputs"), outputs.get("losses"))
