"""What one training step is made of: calling the model, finding its loss, and whether that loss is weighted."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hftrain.core.batches import describe_batch
from hftrain.core.task import TaskModule
from hftrain.errors import ConfigurationError, TaskError
from hftrain.hardware.seeding import rng_state, set_rng_state
from hftrain.hardware.tree import mapping_like, sequence_like
from hftrain.trainer.construction import base_of
from hftrain.trainer.overrides import is_overridden

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from hftrain.args.training import TrainingArguments
    from hftrain.hardware.engine import Engine
    from hftrain.trainer.device_methods import DeviceMethods
    from hftrain.trainer.trainer import Trainer

logger = logging.getLogger(__name__)


# ---- calling the model ---------------------------------------------------------------------------------


def switch_to_training(model: nn.Module, optimizer: Any) -> None:
    """Put the model into train mode unless it is, and an optimizer that has such a mode as well."""
    if not model.training:
        model.train()
    # Schedule-free optimizers keep other weights for evaluation.
    train = getattr(optimizer, "train", None)
    if train is not None:
        train()


def own_batch(moved: Any, batch: Any) -> Any:
    """Return a batch whose entries may be taken out: where nothing had to move, a shallow copy of the loader's."""
    if moved is not batch:
        return moved
    if type(moved) is dict:
        return dict(moved)
    return copy.copy(moved) if isinstance(moved, Mapping) else moved


def prepared_by_entry(data: Any, prepare: Callable[[Any], Any], move: Callable[[Any], Any]) -> Any:
    """Return a mapping, list or tuple with each entry prepared, and anything else moved.

    A tuple that can move by itself, as a packed sequence can, is not taken apart.
    """
    if isinstance(data, Mapping):
        return mapping_like(data, {key: prepare(value) for key, value in data.items()})
    if isinstance(data, (list, tuple)) and not hasattr(data, "to"):
        return sequence_like(data, [prepare(value) for value in data])
    return move(data)


def take_labels(inputs: Any) -> Any:
    """Remove "labels" from the inputs and return it; None when there is none."""
    if not isinstance(inputs, Mapping):
        raise _not_a_mapping(inputs)
    return inputs.pop("labels", None)  # type: ignore[attr-defined]


def call_model(model: nn.Module, inputs: Any, *, label_names: Sequence[str] = ()) -> Any:
    """Return ``model(**inputs)``.

    Args:
        label_names: entries that are labels, for the error alone; those with "label" in their name are too.

    Raises:
        TaskError: forward does not take these entries, or lacks some.
    """
    try:
        return model(**inputs)
    except TypeError:
        _check_inputs(model, inputs, label_names)
        raise


def loss_of(outputs: Any, inputs: Any) -> Any:
    """Return the "loss" of a model's outputs, or the first of several, or a bare loss itself.

    Raises:
        TaskError: the outputs have names, and none is "loss".
    """
    if isinstance(outputs, Mapping):
        if "loss" not in outputs:
            raise TaskError(
                f"The model returned no loss, only the keys {', '.join(outputs)}. The inputs were "
                f"{describe_batch(inputs)}. Pass labels in the batch, a compute_loss_func, or override compute_loss."
            )
        return outputs["loss"]
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def past_of(outputs: Any, past_index: int) -> Any:
    """Return the output at ``past_index``, which the next batch gets as "mems".

    Raises:
        ConfigurationError: there are not that many outputs.
    """
    values = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    if past_index >= len(values):
        raise ConfigurationError(
            f"past_index={past_index}, and the model returned {len(values)} outputs. Set past_index to the position of "
            "its memories, counted from 0, or to -1."
        )
    return values[past_index]


def is_causal_lm(model: nn.Module) -> bool:
    """Return whether the model predicts the next token, as far as its class says: then labels are shifted."""
    base = base_of(model)
    name = type(base).__name__
    if not any(parent.__module__.partition(".")[0] == "transformers" for parent in type(base).__mro__):
        return name.endswith(("ForCausalLM", "LMHeadModel"))
    known = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return name in known.values()


def _check_inputs(model: nn.Module, inputs: Any, label_names: Sequence[str]) -> None:
    module = model.module if isinstance(model, DistributedDataParallel) else model
    if not isinstance(inputs, Mapping):
        raise _not_a_mapping(inputs)
    signature = inspect.signature(module.forward)
    try:
        signature.bind(**inputs)
    except TypeError as error:
        unknown = [name for name in inputs if name not in signature.parameters]
        labels = [name for name in unknown if name in label_names or "label" in name]
        advice = "Rename the entries of the data set, or leave remove_unused_columns=True to drop others."
        if labels:
            advice = (
                f"It takes no {labels[0]!r}, so it computes no loss: pass compute_loss_func, or override compute_loss; "
                "or drop the entry from the data set, if it is no label."
            )
        raise TaskError(
            f"{type(module).__name__}.forward({', '.join(signature.parameters)}) cannot be called with the batch "
            f"{describe_batch(inputs)}: {error}. {advice}"
        ) from error


def _not_a_mapping(inputs: Any) -> TaskError:
    return TaskError(
        f"The batch is {describe_batch(inputs)}, and the model is called with the entries of a dict by name. Give a "
        "data_collator that makes dicts, or override compute_loss."
    )


def check_share(share: Any) -> None:
    """Raise unless what a training step returned can be summed up.

    Raises:
        TaskError: it is no number, or a tensor of several.
    """
    if isinstance(share, (int, float)) or (isinstance(share, Tensor) and share.numel() == 1):
        return
    found = f"a tensor of shape {tuple(share.shape)}" if isinstance(share, Tensor) else repr(share)
    raise TaskError(f"training_step returned {found}. Return the detached loss of the batch, a scalar (0-d) tensor.")


def hook_autocast(engine: Engine, model: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
    """Make the model's forward run in autocast and return fp32, until the hooks are removed."""
    entered: list[AbstractContextManager[Any]] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        entered.append(engine.autocast())
        entered[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        return engine.float_outputs(outputs)

    # `leave` is called after an error in forward too, or autocast would stay on.
    return model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)


@contextmanager
def autocast_in_forward(engine: Engine, model: nn.Module) -> Iterator[None]:
    """While this is open, the model's forward runs in autocast and returns fp32, and what is made of it runs outside.

    On the CPU autocast stays on for what is made of it.
    """
    hooks = hook_autocast(engine, model)
    try:
        with engine.autocast() if engine.device.type == "cpu" else nullcontext():
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def direct_calls_in_precision(trainer: DeviceMethods) -> Iterator[None]:
    """While this is open, a subclass that calls the model outside of `compute_loss_context_manager` has autocast too.

    Nothing is done for a class without steps of its own, or for a forward that is compiled or traced.
    """
    args, engine = trainer.args, trainer._running_engine()
    own = any(is_overridden(type(trainer), name) for name in ("training_step", "prediction_step", "evaluation_loop"))
    if not own or engine.settings.precision == "fp32" or args.torch_compile or args.jit_mode_eval:
        yield
        return
    hooks = hook_autocast(engine, trainer.model)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- whether the count of items is used ----------------------------------------------------------------


def warn_if_count_is_ignored(trainer: Trainer, batch: Any, num_items: Any) -> None:
    """Warn when the model's loss of one batch is the same for twice the count: its losses would be summed up.

    Computes the loss twice, in eval mode without gradients; modes, buffers and random states are as before.
    """
    losses = []
    with _untouched(trainer.model), torch.compiler.set_stance("force_eager"), trainer.compute_loss_context_manager():
        for count in (num_items, 2 * num_items):
            inputs = own_batch(trainer._running_engine().to_device(batch), batch)
            losses.append(float(trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)))
    trainer._past = None
    if losses[0] == losses[1] != 0.0:
        logger.warning(
            "%s is given num_items_in_batch, the count of labels in a whole step, and its loss does not depend on it. "
            "So the losses of the %d micro-batches of a step are summed, not averaged. Divide the summed loss by "
            "num_items_in_batch in forward, or set trainer.model_accepts_loss_kwargs = False.",
            type(base_of(trainer.model)).__name__,
            trainer.args.gradient_accumulation_steps,
        )


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    state = rng_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        set_rng_state(state)


# ---- what is refused -----------------------------------------------------------------------------------


STEP_METHODS = (
    "training_step",
    "compute_loss",
    "get_batch_samples",
    "compute_loss_context_manager",
    "autocast_smart_context_manager",
    "_prepare_inputs",
    "_prepare_input",
)
"""What a step of a plain module goes through; a TaskModule has its own."""


def check_task_overrides(model: nn.Module, kind: type) -> None:
    """Raise if a Trainer's class overrides what a run of a TaskModule never calls.

    Raises:
        ConfigurationError: it does.
    """
    if not isinstance(model, TaskModule):
        return
    overridden = [name for name in STEP_METHODS if is_overridden(kind, name)]
    if overridden:
        name = type(model).__name__
        raise ConfigurationError(
            f"{kind.__name__} overrides {', '.join(overridden)}, and {name} is a TaskModule, whose own steps are "
            f"called instead. Write {name}.training_step (or forward_backward, count_items), or pass a plain nn.Module."
        )


def check_task_arguments(model: nn.Module, args: TrainingArguments, compute_loss_func: Any) -> None:
    """Raise if something is to change the loss of a TaskModule, which computes its own.

    Raises:
        ConfigurationError: it is.
    """
    if not isinstance(model, TaskModule):
        return
    asked = {
        "label_smoothing_factor": (args.label_smoothing_factor, "torch.nn.functional.cross_entropy's label_smoothing"),
        "compute_loss_func": (compute_loss_func, "its training_step"),
        "past_index": (args.past_index if args.past_index >= 0 else None, "an attribute that its training_step keeps"),
    }
    for name, (value, instead) in asked.items():
        if value:
            raise ConfigurationError(
                f"{name}={value!r} acts on a plain nn.Module, and {type(model).__name__} is a TaskModule, which "
                f"computes its own loss. Leave {name} out, and use {instead}."
            )
