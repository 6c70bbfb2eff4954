"""What a Trainer finds out about its model and refuses about its parameters, before anything runs."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any

from hftrain.args.training import TrainingArguments
from hftrain.core.metrics import are_metrics
from hftrain.core.task import TaskModule
from hftrain.data.collators import DataCollatorWithPadding, default_data_collator
from hftrain.errors import ConfigurationError, NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn


# ---- what the model is ---------------------------------------------------------------------------------


def base_of(model: nn.Module) -> nn.Module:
    """Return the model inside PEFT's adapters, or the model itself."""
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        return model.get_base_model()  # type: ignore[no-any-return, operator]
    return model


def label_names_of(model: nn.Module) -> list[str]:
    """Return the parameters of ``forward`` that are labels: those named so, and the spans of question answering."""
    base = base_of(model)
    names = _forward_parameters(base)
    spans = ("start_positions", "end_positions") if "QuestionAnswering" in type(base).__name__ else ()
    return [name for name in names if "label" in name or name in spans]


def can_return_loss(model: nn.Module) -> bool:
    """Return whether ``forward`` returns a loss without labels: it has ``return_loss=True`` as default."""
    parameter = _forward_parameters(base_of(model)).get("return_loss")
    return parameter is not None and parameter.default is True


def accepts_loss_kwargs(model: nn.Module) -> bool:
    """Return whether the model weights its loss by ``num_items_in_batch``: it says so, or takes ``**kwargs``."""
    base = base_of(model)
    said = getattr(base, "accepts_loss_kwargs", None)
    if said is not None:
        return bool(said)
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in _forward_parameters(base).values())


def is_model_parallel(model: nn.Module, device: Callable[[], torch.device]) -> bool:
    """Return whether the model's layers are spread over devices, or lie on another one than the run's."""
    placed = getattr(model, "hf_device_map", None)
    if placed is None:
        return bool(getattr(model, "is_parallelizable", False) and getattr(model, "model_parallel", False))
    devices = {str(place) for place in placed.values()} - {"cpu", "disk"}
    if len(devices) != 1:
        return len(devices) > 1
    (only,) = devices
    return str(device()) != (f"cuda:{only}" if only.isdigit() else only)


def default_collator(model: nn.Module, processing_class: Any) -> Callable[[list[Any]], Any] | None:
    """Return the collator of samples: torch's (None) for a task, padding for a tokenizer, else stacking."""
    if isinstance(model, TaskModule):
        return None
    # Tokenizers and sequence feature extractors pad; image processors and the like don't.
    if processing_class is not None and hasattr(processing_class, "pad") and hasattr(processing_class, "padding_side"):
        return DataCollatorWithPadding(processing_class)
    return default_data_collator


def _forward_parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(model.forward).parameters)


# ---- what is refused -----------------------------------------------------------------------------------


def check_arguments(args: Any) -> None:
    """Raise unless the arguments are hftrain's.

    Raises:
        ConfigurationError: they are another library's, or none.
    """
    if not isinstance(args, TrainingArguments):
        kind = type(args)
        raise ConfigurationError(
            f"args is a {kind.__module__}.{kind.__qualname__}. Pass hftrain's: from hftrain import TrainingArguments."
        )


def check_model_sources(model: nn.Module | None, model_init: Callable[..., nn.Module] | None) -> None:
    """Raise if nothing gives the model; warn if two things do.

    Raises:
        ConfigurationError: nothing does.
    """
    if model is not None and model_init is not None:
        warnings.warn(
            "Both model and model_init were given: train() will replace the model by what model_init makes. Pass the "
            "one that should be trained.",
            FutureWarning,
            stacklevel=4,
        )
    if model is None and model_init is None:
        raise ConfigurationError(
            "Trainer needs a model. Pass model=TaskModule or nn.Module, or model_init=a function that makes one."
        )


def check_model(model: Any) -> None:
    """Raise unless the model is a module that can be trained.

    Raises:
        ConfigurationError: it is no module, or its weights are quantized and nothing trainable is attached.
        NotAvailableError: its layers are tensor parallel.
    """
    if not hasattr(model, "state_dict") or not hasattr(model, "parameters"):
        raise ConfigurationError(f"model={model!r} is a {type(model).__name__}. Pass a TaskModule or an nn.Module.")
    if (getattr(model, "_tp_size", None) or 1) > 1:
        raise NotAvailableError(
            f"{type(model).__name__} is tensor parallel over {model._tp_size} processes, which this version does not "
            "train. Load it without tp_plan."
        )
    is_quantized = getattr(model, "is_quantized", False) and not getattr(model, "_hf_peft_config_loaded", False)
    quantizer = getattr(model, "hf_quantizer", None)
    can_train = getattr(quantizer, "is_qat_trainable", False) or hasattr(model, "peft_config")
    if is_quantized and not can_train:
        raise ConfigurationError(
            f"The weights of {type(model).__name__} are quantized, and such weights cannot be trained. Attach adapters "
            "with PEFT and pass the resulting model."
        )


def check_collator(data_collator: Any) -> None:
    """Raise unless the collator can be called."""
    if data_collator is not None and not callable(data_collator):
        raise ConfigurationError(
            f"data_collator={data_collator!r} cannot be called. Pass a function, or an object with __call__, that "
            "makes a batch from a list of samples."
        )


def check_optimizers(
    optimizers: tuple[Any, Any], optimizer_cls_and_kwargs: Any, model_init: Callable[..., nn.Module] | None
) -> None:
    """Raise if two parameters say which optimizer to use, or it was made before its model.

    Raises:
        ConfigurationError: they do.
    """
    if optimizer_cls_and_kwargs is not None and optimizers[0] is not None:
        raise ConfigurationError(
            "Both optimizers and optimizer_cls_and_kwargs were given, and they are incompatible. Pass one of them."
        )
    if model_init is not None and any(given is not None for given in optimizers):
        raise ConfigurationError(
            "Both model_init and optimizers were given: an optimizer made before belongs to another model. Pass "
            "optimizer_cls_and_kwargs, or override create_optimizer."
        )


def check_data(args: TrainingArguments, train_dataset: Any, *, has_evaluation: bool) -> None:
    """Raise if the arguments need data that was not given, or of another kind.

    Raises:
        ConfigurationError: training data without a length and without max_steps, or no evaluation data.
    """
    if train_dataset is not None and not hasattr(train_dataset, "__len__") and args.max_steps <= 0:
        raise ConfigurationError(
            f"max_steps={args.max_steps}, and train_dataset ({type(train_dataset).__name__}) has no __len__, so the "
            "number of steps cannot be derived from num_train_epochs. Set max_steps to a positive number."
        )
    if train_dataset is not None and not hasattr(train_dataset, "__len__") and args.group_by_length:
        raise ConfigurationError(
            f"group_by_length=True needs a data set with a length, and train_dataset is a "
            f"{type(train_dataset).__name__} without one. Set group_by_length=False."
        )
    if args.eval_strategy != "no" and not has_evaluation:
        raise no_evaluation_data(f"eval_strategy={str(getattr(args.eval_strategy, 'value', args.eval_strategy))!r}")


def no_evaluation_data(asked: str) -> ConfigurationError:
    """Return the error for an evaluation that was ``asked`` for, without anything to evaluate on."""
    return ConfigurationError(
        f"{asked} needs data to evaluate on, and there is none. Pass eval_dataset=... or DataModule(eval=...), or set "
        'eval_strategy="no" and eval_on_start=False.'
    )


def check_metrics(args: TrainingArguments, compute_metrics: Any) -> None:
    """Raise if metrics can neither be called nor updated, or not be told which batch is the last.

    Raises:
        ConfigurationError: neither a function nor metrics; ``batch_eval_metrics`` and no ``compute_result`` parameter.
    """
    if compute_metrics is not None and not callable(compute_metrics) and not are_metrics(compute_metrics):
        raise ConfigurationError(
            f"compute_metrics={compute_metrics!r} is a {type(compute_metrics).__name__}. Pass a function of an "
            "EvalPrediction that returns a dict, or torchmetrics: one, a MetricCollection, or a dict of them."
        )
    if compute_metrics is None or not args.batch_eval_metrics or hasattr(compute_metrics, "update"):
        return
    if "compute_result" not in inspect.signature(compute_metrics).parameters:
        raise ConfigurationError(
            "batch_eval_metrics=True calls compute_metrics after every batch, and this function has no parameter "
            "compute_result, which is True with the last batch. Add it, or set batch_eval_metrics=False."
        )


def warn_of_generating(args: TrainingArguments, trainer: type) -> None:
    """Say that a plain ``Trainer`` does not generate, if the arguments ask for it; a subclass may do so itself."""
    if getattr(args, "predict_with_generate", False) and trainer.__module__ == "hftrain.trainer.trainer":
        warnings.warn(
            "predict_with_generate=True is what Seq2SeqTrainer does, and this is a Trainer: nothing is generated.",
            UserWarning,
            stacklevel=4,
        )
