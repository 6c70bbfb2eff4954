"""What each field of ``trainer_state.json`` may be, whoever wrote the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def is_count(value: object) -> bool:
    """Whether a value from a file can be a counter: an int, not a bool, not negative, below 2**63."""
    return type(value) is int and 0 <= value < 1 << 63


def is_amount(value: object) -> bool:
    """Whether a value from a file can be an amount: a finite number, not a bool, not negative."""
    return is_count(value) or (type(value) is float and math.isfinite(value) and value >= 0)


def _or_none(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)  # a metric may be NaN


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 10_000


def _is_states(value: object) -> bool:
    """Class name -> its state, or a list of them; what a state holds is its class's affair."""
    if not isinstance(value, dict):
        return False
    states = [one for it in value.values() for one in (it if isinstance(it, list) else [it])]
    names = ("args", "attributes")
    return all(isinstance(it, dict) and all(isinstance(it.get(name, {}), dict) for name in names) for it in states)


_A_COUNT = (is_count, "a count")
_AN_AMOUNT = (is_amount, "an amount")
_A_SWITCH = (lambda value: isinstance(value, bool), "true or false")
_TEXT_OR_NONE = (_or_none(_is_text), "a text or null")

FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "epoch": (_or_none(is_amount), "an amount or null"),
    "global_step": _A_COUNT,
    "max_steps": (lambda value: is_amount(value) or value == -1, "an amount"),
    "logging_steps": _AN_AMOUNT,  # old versions of the reference kept what was given
    "eval_steps": _AN_AMOUNT,
    "save_steps": _AN_AMOUNT,
    "train_batch_size": (_or_none(lambda value: is_count(value) and value != 0), "a size or null"),
    "num_train_epochs": _AN_AMOUNT,
    "num_input_tokens_seen": _AN_AMOUNT,
    "total_flos": _AN_AMOUNT,
    "log_history": (_or_none(_is_rows), "a list of rows"),
    "best_metric": (_or_none(_is_number), "a number or null"),
    "best_global_step": (_or_none(is_count), "a count or null"),
    "best_model_checkpoint": _TEXT_OR_NONE,
    "is_local_process_zero": _A_SWITCH,
    "is_world_process_zero": _A_SWITCH,
    "is_hyper_param_search": _A_SWITCH,
    "trial_name": _TEXT_OR_NONE,
    "trial_params": (_or_none(lambda value: isinstance(value, dict)), "an object or null"),
    "stateful_callbacks": (_or_none(_is_states), "an object of states"),
}


def wrong_fields(document: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields that are there, each in a few words; unknown fields are not looked at."""
    return [
        f"{name}={str(document[name])[:40]!r}, which is not {what}"
        for name, (is_right, what) in FIELDS.items()
        if name in document and not is_right(document[name])
    ]
