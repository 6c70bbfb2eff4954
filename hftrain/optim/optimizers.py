"""The optimizers that come with us: a table from the user's word to a class and its keyword arguments."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from hftrain.errors import ConfigurationError, NotAvailableError
from hftrain.optim.adafactor import Adafactor
from hftrain.types.choices import OptimizerNames


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What the arguments say about the optimizer.

    Attributes:
        name: the value of ``optim``.
        weight_decay: belongs to the parameter groups; no optimizer gets it as a keyword argument.
        beta1: ``adam_beta1``; beta2 and epsilon likewise, for the AdamW rows only.
        args: ``optim_args``, as ``parse_optim_args`` returns it.
    """

    name: str = "adamw_torch"
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """One optimizer.

    Attributes:
        optimizer: the class.
        kwargs: the keyword arguments that follow from the settings, beside ``lr``.
        options: what ``optim_args`` may set, and how its text is read.
    """

    optimizer: type[Optimizer]
    kwargs: Callable[[OptimizerSettings], dict[str, Any]]
    options: Mapping[str, Callable[[str], Any]]


def _switch(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return words[text.lower()]


def _nothing(settings: OptimizerSettings) -> dict[str, Any]:
    return {}


def _adam(settings: OptimizerSettings) -> dict[str, Any]:
    return {"betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}


def _fused_adam(settings: OptimizerSettings) -> dict[str, Any]:
    return {**_adam(settings), "fused": True}


def _adafactor(settings: OptimizerSettings) -> dict[str, Any]:
    return {"scale_parameter": False, "relative_step": False}


_TORCH_OPTIONS = dict.fromkeys(("foreach", "maximize", "differentiable", "capturable"), _switch)
_ADAMW_OPTIONS = {**_TORCH_OPTIONS, "amsgrad": _switch}

OPTIMIZERS: Mapping[str, OptimizerRow] = {
    "adamw_torch": OptimizerRow(
        optimizer=torch.optim.AdamW, kwargs=_adam, options={**_ADAMW_OPTIONS, "fused": _switch}
    ),
    "adamw_torch_fused": OptimizerRow(optimizer=torch.optim.AdamW, kwargs=_fused_adam, options=_ADAMW_OPTIONS),
    "sgd": OptimizerRow(
        optimizer=torch.optim.SGD,
        kwargs=_nothing,
        options={
            "momentum": float,
            "dampening": float,
            "nesterov": _switch,
            "maximize": _switch,
            "foreach": _switch,
            "differentiable": _switch,
            "fused": _switch,
        },
    ),
    "adagrad": OptimizerRow(
        optimizer=torch.optim.Adagrad,
        kwargs=_nothing,
        options={
            "lr_decay": float,
            "initial_accumulator_value": float,
            "eps": float,
            "foreach": _switch,
            "maximize": _switch,
            "differentiable": _switch,
            "fused": _switch,
        },
    ),
    "rmsprop": OptimizerRow(
        optimizer=torch.optim.RMSprop,
        kwargs=_nothing,
        options={**_TORCH_OPTIONS, "alpha": float, "eps": float, "momentum": float, "centered": _switch},
    ),
    "adafactor": OptimizerRow(
        optimizer=Adafactor,
        kwargs=_adafactor,
        options={"clip_threshold": float, "decay_rate": float, "beta1": float, "scale_parameter": _switch},
    ),
}


def parse_optim_args(text: str | None) -> dict[str, str]:
    """Read ``optim_args``: ``"a=1, b=2"`` becomes ``{"a": "1", "b": "2"}``; None and "" become ``{}``.

    Raises:
        ConfigurationError: an entry is not ``name=value``, or a name comes twice.
    """
    parsed: dict[str, str] = {}
    for entry in (text or "").replace(" ", "").split(",") if text else ():
        name, equals, value = entry.partition("=")
        if not (name and equals and value) or "=" in value:
            raise ConfigurationError(
                f'optim_args={text!r} has the entry {entry!r}. Write it as "name=value,name=value".'
            )
        if name in parsed:
            raise ConfigurationError(f"optim_args={text!r} sets {name!r} twice. Leave one of them.")
        parsed[name] = value
    return parsed


def optimizer_class_and_kwargs(settings: OptimizerSettings) -> tuple[type[Optimizer], dict[str, Any]]:
    """The class and the keyword arguments that ``settings`` ask for.

    The keyword arguments are the reference's, and then those of ``optim_args`` in their types, which the reference
    reads for these optimizers and drops.

    Raises:
        NotAvailableError: a documented optimizer that is not in ``OPTIMIZERS``.
        ConfigurationError: an unknown name, or an entry of ``optim_args`` that the optimizer does not take.
    """
    name = str(getattr(settings.name, "value", settings.name))
    row = OPTIMIZERS.get(name)
    if row is None:
        raise _unknown(name)
    options = {key: _read_option(name, row, key=key, text=text) for key, text in settings.args.items()}
    return row.optimizer, {"lr": settings.learning_rate, **row.kwargs(settings), **options}


def build_optimizer(settings: OptimizerSettings, param_groups: Iterable[Mapping[str, Any]]) -> Optimizer:
    """Make the optimizer of ``settings`` over ``param_groups``, which carry their own weight decay.

    Raises:
        ConfigurationError: as `make_optimizer` does.
    """
    optimizer_class, kwargs = optimizer_class_and_kwargs(settings)
    return make_optimizer(optimizer_class, param_groups, kwargs)


INSTEAD_OF_GROUPS = ("params", "model", "optimizer_dict")
"""Keyword arguments that an optimizer gets in place of the parameter groups."""


def make_optimizer(
    optimizer_class: Callable[..., Optimizer], param_groups: Iterable[Mapping[str, Any]], kwargs: Mapping[str, Any]
) -> Optimizer:
    """Make an optimizer over ``param_groups``, or over what ``kwargs`` has under a name of ``INSTEAD_OF_GROUPS``.

    Raises:
        ConfigurationError: no parameter is to be trained, or the optimizer refuses its arguments.
    """
    groups = [dict(group) for group in param_groups]
    if not any(len(group["params"]) for group in groups):
        raise ConfigurationError(
            "The model has no parameter that requires a gradient, so there is nothing to train. "
            "Call requires_grad_(True) on what is to be trained."
        )
    given = [kwargs[name] for name in INSTEAD_OF_GROUPS if name in kwargs]
    options = {name: value for name, value in kwargs.items() if name not in INSTEAD_OF_GROUPS}
    try:
        return optimizer_class(given[-1] if given else groups, **options)
    except (ValueError, RuntimeError, TypeError) as error:
        name = getattr(optimizer_class, "__name__", repr(optimizer_class))
        asked = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ConfigurationError(
            f"{name}({asked}) was refused: {error}. Set optim, optim_args or the class's own "
            "arguments to what it takes."
        ) from error


def _unknown(name: str) -> ConfigurationError | NotAvailableError:
    ours = ", ".join(OPTIMIZERS)
    documented = [choice.value for choice in OptimizerNames]
    if name in documented:
        return NotAvailableError(f"optim={name!r} is not available in this version. Set one of {ours}.")
    close = difflib.get_close_matches(name, documented, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return ConfigurationError(f"optim={name!r} is no optimizer. {hint}Set one of {ours}.")


# What optim_args must not set, since an argument of its own does.
_OWN_ARGUMENT = {
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "betas": "adam_beta1 and adam_beta2",
    "eps": "adam_epsilon",
}


def _read_option(name: str, row: OptimizerRow, *, key: str, text: str) -> Any:
    read = row.options.get(key)
    if read is None:
        accepted = ", ".join(sorted(row.options))
        taken = key in _OWN_ARGUMENT and (key in {"lr", "weight_decay"} or key in row.kwargs(OptimizerSettings()))
        advice = f"Set {_OWN_ARGUMENT[key]} instead. " if taken else ""
        raise ConfigurationError(
            f"optim_args sets {key}={text}, which optim={name!r} does not take there. {advice}It takes {accepted}."
        )
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        kind = "true or false" if read is _switch else "a number"
        raise ConfigurationError(f"optim_args sets {key}={text} for optim={name!r}. Write {kind}.") from error
