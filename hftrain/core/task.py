"""`TaskModule`: what is computed, as one `nn.Module`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from hftrain.core.batches import first_batch_errors
from hftrain.core.meters import Meters
from hftrain.errors import TaskError

if TYPE_CHECKING:
    from hftrain.core.ports import Engine

RESERVED_NAMES = frozenset({"loss", "grad_norm", "learning_rate", "epoch", "step"})
StepOutput = Tensor | Mapping[str, Any]


class TaskRun:
    """What a task borrows from the run that it is bound to. Alive for one call of train, evaluate or predict."""

    __slots__ = (
        "backward",
        "checked",
        "meters",
        "passes_num_items",
        "scale",
        "to_device",
        "training_step",
        "world_size",
    )

    def __init__(self, task: TaskModule, engine: Engine, *, training: bool) -> None:
        self.to_device = engine.to_device
        self.backward = engine.backward
        self.meters = Meters()
        self.passes_num_items = "num_items" in inspect.signature(task.training_step).parameters
        self.training_step: Callable[..., StepOutput] | None = engine.step("training_step") if training else None
        self.world_size = engine.world_size
        self.scale = 1.0
        self.checked = False


class TaskModule(nn.Module):
    """What is computed: subclass it, build the model in ``__init__`` and write `training_step`.

    Constructor arguments are recorded when an instance is made and saved with every checkpoint, so that
    `from_checkpoint` can rebuild it; therefore each must be JSON (None, bool, number, string, list, dict).

    A step is called with a batch whose tensors are on the module's device already, inside autocast when the
    run has one, and through the strategy's wrapper (DDP), so a step may call any submodule.
    """

    _run: TaskRun | None = None
    _init_arguments: dict[str, Any] | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the constructor arguments.

        Raises:
            TaskError: an argument is not JSON, or is taken by ``*args`` and so has no name.
        """
        task = super().__new__(cls)
        # copy.deepcopy and pickle call __new__ without arguments and restore the record with the state.
        task.__dict__["_init_arguments"] = _bind_arguments(cls, args, kwargs)
        return task

    # ---- what a subclass writes -------------------------------------------------------------------

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> StepOutput:
        """Return the loss of one micro-batch, or a mapping with "loss" and scalars to average and log.

        Name a second parameter ``num_items`` to get the step's item count over all micro-batches and ranks
        (a 0-d tensor); then return the *sum* of the losses divided by it. See `count_items`.
        """
        raise TaskError(f"{type(self).__name__} defines no training_step(batch). Write one that returns the loss.")

    def eval_step(self, batch: Any) -> Mapping[str, Any]:
        """Return "loss" (mean over the batch) and what the metrics take, usually "preds" and "target".

        Called in eval mode, without gradients.
        """
        raise TaskError(
            f"{type(self).__name__} defines no eval_step(batch), which evaluate() and predict() call. "
            'Write one that returns {"loss": ..., "preds": ..., "target": ...}, or set eval_strategy="no".'
        )

    def predict_step(self, batch: Any) -> Any:
        """Return the predictions for one batch, samples along dimension 0. Default: the "preds" of `eval_step`."""
        output = self.eval_step(batch)
        if "preds" not in output:
            raise TaskError(
                f'{type(self).__name__}.eval_step returned {sorted(output)}, without "preds", which predict() '
                "collects. Return it too, or write predict_step(batch)."
            )
        return output["preds"]

    def configure_metrics(self) -> Any:
        """Return a dict of torchmetrics metrics, or a MetricCollection; its keys name the logged metrics."""
        return {}

    def configure_optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Return the optimizer over ``params`` (all trainable ones); None takes the one the arguments name."""
        return None

    def configure_scheduler(self, optimizer: torch.optim.Optimizer, num_steps: int) -> Any | None:
        """Return a scheduler stepped once per optimizer step; None takes the one the arguments name."""
        return None

    def count_items(self, group: Sequence[Any]) -> Tensor | int | None:
        """Count what the loss averages over (tokens, say) in all micro-batches of one step on this rank.

        The batches have not been moved to the device. None (the default) averages the micro-batches' losses.
        """
        return None

    # ---- what a step may call ---------------------------------------------------------------------

    def forward_backward(self, batch: Any, num_items: Tensor | None) -> Tensor:
        """Run forward and backward of one micro-batch and return its detached share of the step's loss.

        Override it to do your own backward, and end it with ``return self.backward(loss)``.
        """
        run = self._bound("forward_backward")
        batch = run.to_device(batch)
        if not run.checked:
            return self._first_forward_backward(run, batch, num_items)
        step = run.training_step
        output = step(batch, num_items) if run.passes_num_items else step(batch)  # type: ignore[misc]
        loss = output if isinstance(output, Tensor) else self._log_scalars(output)
        scale = run.scale
        if scale != 1.0:
            loss = loss * scale
        run.backward(loss)
        return loss.detach()

    def backward(self, loss: Tensor) -> Tensor:
        """Run backward of a micro-batch's loss, weighted as the step needs it; return the weighted, detached loss."""
        run = self._bound("backward")
        if run.scale != 1.0:
            loss = loss * run.scale
        run.backward(loss)
        return loss.detach()

    def log(self, name: str, value: Tensor | float, weight: Tensor | float = 1) -> None:
        """Add one observation to the weighted mean that the next row shows under ``name``.

        In training the row is the next logged one; in evaluation the name gets the prefix (``eval_``) and the
        mean is over the whole set. Tensors are not read before the row is made. Outside a run this does nothing.
        """
        if name in RESERVED_NAMES:
            raise TaskError(
                f"{type(self).__name__}.log({name!r}, ...): every row has its own {name!r}. Log it under another name"
                + (', or return it as "loss".' if name == "loss" else ".")
            )
        if self._run is not None:
            self._run.meters.add(name, value, weight)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter or buffer; the CPU when there is none."""
        tensor: Tensor | None = next(chain(self.parameters(), self.buffers()), None)
        return tensor.device if tensor is not None else torch.device("cpu")

    @property
    def counts_items(self) -> bool:
        """Whether the class weights its loss by items."""
        return type(self).count_items is not TaskModule.count_items

    # ---- saving and rebuilding --------------------------------------------------------------------

    @property
    def init_arguments(self) -> dict[str, Any]:
        """The constructor arguments of this instance, as JSON values."""
        return json.loads(json.dumps(self._init_arguments or {}))  # type: ignore[no-any-return]

    def task_document(self) -> dict[str, Any]:
        """Return the content of ``task.json``: class path and constructor arguments."""
        return {"class": f"{type(self).__module__}:{type(self).__qualname__}", "arguments": self.init_arguments}

    @classmethod
    def from_checkpoint(cls, path: str, **changes: Any) -> Self:
        """Rebuild an instance from a checkpoint or a saved model and load its weights, on the CPU.

        The class is the one this is called on: nothing that a checkpoint names is imported.

        Args:
            path: folder with ``task.json`` and the model's weights.
            **changes: constructor arguments that replace the recorded ones.

        Raises:
            CheckpointError: the folder is torn, or holds no task.
            TaskError: the checkpoint belongs to another class.
        """
        from hftrain.checkpoint.reader import read_model, read_task

        document = read_task(path)
        recorded = str(document.get("class", "")).rpartition(":")[2]
        if recorded != cls.__qualname__:
            raise TaskError(
                f"{path} holds a {document.get('class')!r}, and from_checkpoint was called on {cls.__qualname__}. "
                f"Call {recorded or 'the saved class'}.from_checkpoint({path!r})."
            )
        task = cls(**{**document.get("arguments", {}), **changes})
        task.load_state_dict(read_model(path))
        return task

    # ---- called by the run ------------------------------------------------------------------------

    def bind(self, engine: Engine, *, training: bool) -> TaskRun:
        """Connect the task to a run. `unbind` ends it.

        Raises:
            TaskError: items are counted, but no step takes the count.
        """
        run = TaskRun(self, engine, training=training)
        own_backward = type(self).forward_backward is not TaskModule.forward_backward
        if training and self.counts_items and not (run.passes_num_items or own_backward):
            raise TaskError(
                f"{type(self).__name__} overrides count_items, but training_step has no parameter num_items, so "
                "the count would not be used. Write training_step(self, batch, num_items) and divide the summed "
                "loss by it, or remove count_items."
            )
        self._run = run
        return run

    def unbind(self) -> None:
        """Let go of the run."""
        self._run = None

    def begin_step(self, num_batches: int, *, is_counted: bool = False) -> None:
        """Weight each of the step's micro-batches equally, or leave the weight to the count.

        DDP averages gradients over the ranks; a loss divided by the count over all ranks must be summed instead.
        """
        run = self._bound("begin_step")
        run.scale = float(run.world_size) if is_counted else 1.0 / num_batches

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind when copied."""
        return {key: value for key, value in self.__dict__.items() if key != "_run"}

    def _bound(self, method: str) -> TaskRun:
        if self._run is None:
            raise TaskError(f"{type(self).__name__}.{method} works inside a run only. Call Trainer(...).train().")
        return self._run

    def _log_scalars(self, output: Mapping[str, Any]) -> Tensor:
        for name, value in output.items():
            if name != "loss":
                self.log(name, value)
        return output["loss"]  # type: ignore[no-any-return]

    def _first_forward_backward(self, run: TaskRun, batch: Any, num_items: Tensor | None) -> Tensor:
        """Do what `forward_backward` does, checking everything that a first step can show."""
        name = type(self).__name__
        step: Any = run.training_step
        with first_batch_errors(f"{name}.training_step", batch):
            output = step(batch, num_items) if run.passes_num_items else step(batch)
        loss = self._checked_loss(output)
        for key, value in output.items() if isinstance(output, Mapping) else ():
            check_scalar(f"{name}.training_step's {key!r}", value)
        run.checked = True
        if isinstance(output, Mapping):
            self._log_scalars(output)
        return self.backward(loss)

    def _checked_loss(self, output: StepOutput) -> Tensor:
        name = f"{type(self).__name__}.training_step"
        if isinstance(output, Mapping):
            if "loss" not in output:
                raise TaskError(f'{name} returned the keys {sorted(output)}, without "loss". Add it.')
            output = output["loss"]
        if not isinstance(output, Tensor):
            raise TaskError(f'{name} returned {type(output).__name__}. Return the loss tensor, or {{"loss": ...}}.')
        if output.numel() != 1 or output.dim() != 0:
            raise TaskError(
                f"{name} returned a loss of shape {tuple(output.shape)}; it must be a scalar (0-d). "
                "Average it, for example with loss.mean()."
            )
        if not output.requires_grad:
            raise TaskError(
                f"{name} returned a loss that does not require grad, so there is nothing to learn from. Compute "
                "it from the module's trainable parameters, without detach(), .item() or torch.no_grad()."
            )
        return output


def check_scalar(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number or a tensor of one element."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return
    if isinstance(value, (bool, int, float)):
        return
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise TaskError(f"{name} is {found}; what a training step returns beside the loss must be a scalar to average.")


def _bind_arguments(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        bound = signature.bind(None, *args, **kwargs)
    except TypeError:
        return None  # __init__ raises the same error with Python's own words
    arguments: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL and value:
            raise TaskError(f"{cls.__name__}.__init__ takes *{name}, which cannot be recorded by name. Name them.")
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            arguments[name] = value
    return {name: _json_value(cls, name, value) for name, value in arguments.items()}


def _json_value(cls: type, name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TaskError(
            f"{cls.__name__}({name}=...) got a {type(value).__name__}, which is not JSON ({error}), so a checkpoint "
            "could not rebuild the task. Pass None, a bool, number, string, list or dict, and build the object in "
            "__init__."
        ) from error
