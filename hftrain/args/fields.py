"""How an argument is declared, and how one is shown in a message."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import Any, TypeVar

from hftrain.plugin_api.values import holds_text, is_secret_key

T = TypeVar("T")

SHOWN_LENGTH = 200  # characters of a value in a message; a whole configuration would hide the sentence around it


def argument(default: T, text: str, *, is_secret: bool = False) -> T:
    """Declare a field with its default and its help text; a secret one stays out of every ``repr``."""
    declared: T = field(default=default, metadata={"help": text}, repr=not is_secret)
    return declared


def own_default(group: Any, name: str) -> Any:
    """The default that hftrain declares, whatever a user's subclass made of it; MISSING for a factory's."""
    owner = next(owner for owner in group.__mro__ if owner.__module__.startswith("hftrain.args."))
    return owner.__dataclass_fields__[name].default


def is_secret(name: str, value: object = None) -> bool:
    """Whether the argument's value must never be shown or stored; a subclass may add such a one, by its name."""
    return name.endswith("_token") or (is_secret_key(name) and (value is None or holds_text(plain(value))))


def masked(name: str) -> str:
    """What stands in for a secret: ``hub_token`` is shown as ``<HUB_TOKEN>``."""
    return f"<{name.upper()}>"


def shown(name: str, value: object) -> str:
    """``name=value`` as the user would write it, without secrets."""
    if is_secret(name, value):
        return f"{name}={masked(name)}"
    text = repr(plain(value))
    return f"{name}={text}" if len(text) <= SHOWN_LENGTH else f"{name}={text[:SHOWN_LENGTH]}..."


def plain(value: Any) -> Any:
    """The value in the words of JSON: choices and data types as bare strings, containers copied."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "to_dict") and not isinstance(value, type):
        return plain(value.to_dict())
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    return value
