"""States from a checkpoint that anyone may have written, looked at before they reach the objects they are for.

``load_state_dict`` believes what it is given: torch's schedulers take any attribute, and numpy's generator any place in
its memory. Each check here raises TornCheckpointError or UnsafeCheckpointError and says what is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError
from hftrain.types.state_fields import is_amount, is_count

_WORDS = 624
"""Of the generator that Python and NumPy share."""
_MAX_DEVICE_STATE_BYTES = 1 << 16

_LIKE_THEIR_PARAMETER = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta"}
    | {"sum", "ax", "prev", "step_size"}
)
"""What torch's optimizers keep in the shape of the parameter; their fused steps would read beyond a smaller one."""
_COUNTERS = ("last_epoch", "_step_count", "num_bad_epochs", "cooldown_counter")


@contextlib.contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Say whose state it is when an object cannot take it.

    Raises:
        TornCheckpointError: the object raised what a wrong state leads to.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise TornCheckpointError(
            f"The checkpoint's {what} cannot be loaded: {type(error).__name__}: {str(error)[:300]}."
        ) from error


# ---- random numbers -------------------------------------------------------------------------------------------------


def check_rng(state: Any) -> dict[str, Any]:
    """Return the state of a process's generators, if it is one."""
    is_right = isinstance(state, dict) and _is_python(state.get("python")) and _is_numpy(state.get("numpy"))
    if not is_right or not all(_is_device_state(state.get(name)) for name in ("cuda", "mps")):
        raise TornCheckpointError("The checkpoint's random state is not that of generators of Python, NumPy and torch.")
    with named_errors("random state of torch"):
        torch.Generator().set_state(state["torch"])  # a try: it looks at every word
    found: dict[str, Any] = state
    return found


def _is_python(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and state.get("version") == 3
        and _are_words(state.get("words"), last_is_place=True)
        and (state.get("gauss") is None or _is_finite(state["gauss"]))
    )


def _is_numpy(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and _are_words(state.get("words"), last_is_place=False)
        and is_count(state.get("position"))
        and state["position"] <= _WORDS  # NumPy takes any, and reads from there
        and state.get("has_gauss") in (0, 1)
        and _is_finite(state.get("gauss"))
    )


def _are_words(words: Any, *, last_is_place: bool) -> bool:
    if not isinstance(words, list | tuple) or len(words) != _WORDS + last_is_place:
        return False
    return all(is_count(word) and word < 1 << 32 for word in words) and (not last_is_place or words[-1] <= _WORDS)


def _is_device_state(state: Any) -> bool:
    return state is None or (
        isinstance(state, Tensor)
        and state.dtype == torch.uint8
        and state.dim() == 1
        and state.numel() <= _MAX_DEVICE_STATE_BYTES
    )


def _plain(value: Any) -> Any:
    """A number of numpy, which a rate may become, as the number it is."""
    return value.item() if isinstance(value, np.generic) else value


def _is_finite(value: Any) -> bool:
    value = _plain(value)
    if isinstance(value, Tensor):
        return value.numel() == 1 and bool(value.isfinite())
    return type(value) in (int, float) and is_amount(abs(value))


# ---- loss scale -----------------------------------------------------------------------------------------------------


def check_scaler(state: Any) -> dict[str, Any]:
    """Return the state of a loss scaler: finite numbers, or tables of them by name."""
    if not isinstance(state, dict) or not all(_is_finite(it) or _is_table(it) for it in state.values()):
        raise TornCheckpointError(f"The checkpoint's loss scale is no table of finite numbers: {str(state)[:200]}.")
    if not is_count(_plain(state.get("_growth_tracker", 0))) or not _is_positive(state.get("scale", 1)):
        raise TornCheckpointError(f"The checkpoint's loss scale is none: {str(state)[:200]}.")
    return state


def _is_positive(value: Any) -> bool:
    return not isinstance(value, Mapping) and bool(value > 0)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_finite, value.values()))


# ---- schedules ------------------------------------------------------------------------------------------------------


def check_scheduler(state: Any, scheduler: Any) -> dict[str, Any]:
    """Return a state that the scheduler can take: what it has has the same kinds, and no method is replaced."""
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise TornCheckpointError("The checkpoint's schedule is no table of values by name.")
    live = scheduler.state_dict()
    kind = type(scheduler)
    for key, value in state.items():
        if key == "optimizer" or key.startswith("__") or callable(getattr(kind, key, None)):
            raise UnsafeCheckpointError(f"The checkpoint's schedule would replace {key!r} of {kind.__name__}.")
        if key in live and not _fits(value, live[key]):
            raise TornCheckpointError(
                f"The checkpoint's schedule has {key}={str(value)[:80]}, "
                f"where the {kind.__name__} has {str(live[key])[:80]}."
            )
        if key in _COUNTERS and not is_count(_plain(value)) and _plain(value) != -1:
            raise TornCheckpointError(f"The checkpoint's schedule has {key}={str(value)[:80]}, which is no count.")
    for saved_function, function in zip(state.get("lr_lambdas") or (), live.get("lr_lambdas", ()), strict=False):
        if not set(saved_function or ()) <= set(function or ()):  # torch puts what is there onto the function
            raise UnsafeCheckpointError("The checkpoint's schedule has attributes for a function that has none.")
    inner, saved = getattr(scheduler, "_schedulers", ()), state.get("_schedulers", ())
    for one, other in zip(inner, saved, strict=False):
        check_scheduler(other, one)
    return state


def _fits(value: Any, live: Any) -> bool:
    """Whether a value from a file can stand where an object has ``live``."""
    value, live = _plain(value), _plain(live)
    if live is None or value is None:
        return not isinstance(value, Mapping) or not value
    if isinstance(live, bool | str):
        return isinstance(value, type(live))
    if isinstance(live, int | float | Tensor):
        return _is_number(value) and not (isinstance(live, int) and not _is_finite(value))
    if isinstance(live, list | tuple):
        is_list = isinstance(value, list | tuple)
        return is_list and (len(value) != len(live) or all(map(_fits, value, live)))
    if isinstance(live, Mapping):
        return isinstance(value, Mapping) and all(_fits(it, live[key]) for key, it in value.items() if key in live)
    return True


def _is_number(value: Any) -> bool:
    value = _plain(value)
    if isinstance(value, Tensor):
        return value.numel() == 1
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


# ---- optimizers -----------------------------------------------------------------------------------------------------


def check_optimizer(saved: Any) -> dict[str, Any]:
    """Return an optimizer's state as `contents.optimizer_part` writes it: state by name, groups with their names."""
    is_right = (
        isinstance(saved, dict)
        and all(isinstance(saved.get(name), kind) for name, kind in _OPTIMIZER_FIELDS.items())
        and all(isinstance(name, str) and isinstance(it, dict) for name, it in saved["state"].items())
        and all(_is_group(group) for group in saved["param_groups"])
    )
    if not is_right:
        raise TornCheckpointError("The checkpoint's optimizer has no state by parameter name, or no groups.")
    names = [name for group in saved["param_groups"] for name in group["params"]]
    if len(set(names)) != len(names) or not saved["state"].keys() <= set(names):
        raise TornCheckpointError("The checkpoint's optimizer has a parameter twice, or a state without its parameter.")
    found: dict[str, Any] = saved
    return found


_OPTIMIZER_FIELDS = {"state": dict, "param_groups": list, "more": dict}


def _is_group(group: Any) -> bool:
    if not isinstance(group, dict) or not isinstance(group.get("params"), list):
        return False
    return all(isinstance(name, str) for name in group["params"]) and all(isinstance(key, str) for key in group)


def check_group(settings: Mapping[str, Any], live: Mapping[str, Any]) -> None:
    """Raise unless the settings of a saved group can stand in the optimizer's."""
    for key, value in settings.items():
        if key in live and key not in ("params", "param_names") and not _fits(value, live[key]):
            raise TornCheckpointError(
                f"The checkpoint's optimizer has {key}={str(value)[:80]}, where this one has {str(live[key])[:80]}."
            )


def check_parameter_state(state: Mapping[str, Any], parameter: Tensor, optimizer: Optimizer, *, place: str) -> None:
    """Raise unless what an optimizer of torch keeps for a parameter has its shape, and its counter counts.

    A place may hold another parameter than it did; torch would not say so before the next step.

    Args:
        state: of one parameter.
        parameter: the one it will be of.
        optimizer: an optimizer that is none of torch's may keep what it wants in any shape.
        place: of the parameter, for the message.
    """
    if "step" in state and not _is_step(state["step"]):
        raise TornCheckpointError(f"The checkpoint's optimizer has a step for {place} that is no count.")
    if not any(
        base.__module__.startswith("torch.optim.") and base is not Optimizer for base in type(optimizer).__mro__
    ):
        return
    for key in sorted(_LIKE_THEIR_PARAMETER & state.keys()):
        value = state[key]
        if isinstance(value, Tensor) and value.shape != parameter.shape:
            raise CheckpointError(
                f"The checkpoint's optimizer has a {key} of shape {tuple(value.shape)} for {place}, whose shape is "
                f"{tuple(parameter.shape)}. Train the same parameters, in the same order and groups."
            )
        if value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
            raise TornCheckpointError(f"The checkpoint's optimizer has a {key} for {place} that holds no real numbers.")


def _is_step(value: Any) -> bool:
    value = _plain(value)
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            return False
        value = value.item()
    return is_amount(value) and float(value).is_integer()
