"""Types first: every given value becomes the type its argument is declared with, or says why it cannot.

A command line and a JSON file give text where Python gives numbers; numpy gives scalars of its own. All of them mean
the same number, so they are read as one. Nothing here looks at two arguments at once: that is for ``rules``.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hftrain.args.accelerator import KEYS, AcceleratorConfig
from hftrain.args.fields import shown
from hftrain.types.choices import DebugOption, FSDPOption

Converter = Callable[[Any], Any]
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class FoundTrackers(list[str]):
    """Trackers that nobody named: those installed, as ``report_to="all"`` asks for."""


class UnfitError(Exception):
    """A value that cannot become the declared type; the text says what is expected."""


def suggestion(word: object, choices: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """The closest choice to a misspelt word, and all of them: "Did you mean 'steps'? Choose one of ..."."""
    close = get_close_matches(str(word), list(choices), n=1)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return f"{meant}Choose one of {', '.join(repr(choice) for choice in choices)}."


def to_bool(value: Any) -> bool:
    """A truth value, also as the word or digit for one."""
    word = value.strip().lower() if isinstance(value, str) else str(int(value)) if isinstance(value, int) else ""
    if word not in WORDS:
        raise UnfitError("True or False is expected")
    return WORDS[word]


def to_int(value: Any) -> int:
    """An integer, also as text ("1e3") or as a float without a fraction."""
    number = to_number(value)
    if isinstance(number, float) and not number.is_integer():
        raise UnfitError("an integer is expected")
    return int(number)


def to_number(value: Any) -> int | float:
    """A number, also as text; an integer stays one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UnfitError("a number is expected")
    if not isinstance(value, str):
        return value
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    raise UnfitError("a number is expected")


def to_str(value: Any) -> str:
    """Text; a path becomes its text."""
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, Enum):
        value = value.value
    if not isinstance(value, str):
        raise UnfitError("text is expected")
    return value


def to_list(value: Any) -> list[str]:
    """A list of words; one word alone is a list of it."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in value):
        raise UnfitError("a list of words is expected")
    return sorted(value) if isinstance(value, (set, frozenset)) else list(value)


def to_dict(value: Any) -> dict[str, Any]:
    """A dict, also as JSON text or as the name of a JSON file. Texts in JSON text become the numbers they spell."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike) or (isinstance(value, str) and not value.lstrip().startswith("{")):
        return _parsed(_text_of(os.fspath(value)))
    if isinstance(value, str):
        document: dict[str, Any] = _spelled_out(_parsed(value))
        return document
    raise UnfitError("a dict, JSON text or the name of a JSON file is expected")


def _json_text_to_dict(value: Any) -> Any:
    return to_dict(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def _text_of(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnfitError(
            f"a dict, JSON text or the name of a JSON file is expected, and this file cannot be read ({error})"
        ) from error


def _parsed(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnfitError(f"valid JSON is expected ({error})") from error
    if not isinstance(document, dict):
        raise UnfitError("a JSON object is expected")
    return document


def _spelled_out(value: Any) -> Any:
    """A command line quotes its values: "2" is 2 and "true" is true."""
    if isinstance(value, dict):
        return {key: _spelled_out(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled_out(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return to_number(value)
    except UnfitError:
        return value


def to_choice(choices: type[Enum]) -> Converter:
    """A converter to one of an enum's values; other libraries' enums of the same words are understood."""

    def convert(value: Any) -> Enum:
        word = value.value if isinstance(value, Enum) else value
        for member in choices:
            if member.value == word:
                return member
        raise UnfitError(f"not known. {suggestion(word, [str(member.value) for member in choices])}")

    return convert


def to_options(choices: type[Enum]) -> Converter:
    """A converter to a list of an enum's values: a list, or words separated by spaces; nothing is an empty list."""
    convert = to_choice(choices)

    def convert_all(value: Any) -> list[Enum]:
        words = value.split() if isinstance(value, str) else value or []
        if not isinstance(words, (list, tuple)):
            raise UnfitError("a list of words is expected")
        return [convert(word) for word in words]

    return convert_all


def to_accelerator_config(value: Any) -> AcceleratorConfig:
    """The seven keys; another library's configuration object of the same keys is understood."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    document = to_dict(value or {})
    for key, item in document.items():
        if key not in AcceleratorConfig.__dataclass_fields__:
            raise UnfitError(f"it has no key {key!r}. {suggestion(key, list(AcceleratorConfig.__dataclass_fields__))}")
        if key in KEYS:
            try:
                document[key] = None if item is None and KEYS[key] else to_bool(item)
            except UnfitError as error:
                raise UnfitError(f"{key}={item!r}: {error}") from None
    if document.get("gradient_accumulation_kwargs") is not None:
        document["gradient_accumulation_kwargs"] = to_dict(document["gradient_accumulation_kwargs"])
    return AcceleratorConfig(**document)


def _to_steps(value: Any) -> int | float:
    number = to_number(value)
    return int(number) if number >= 1 and float(number).is_integer() else number


def _to_token(value: Any) -> str | None:
    # to_dict writes <HUB_TOKEN> in a token's place, set or not: read back, it is none.
    text = None if value is None else to_str(value)
    return None if text is not None and text.startswith("<") and text.endswith("_TOKEN>") else text


def _to_trackers(value: Any) -> list[str]:
    if isinstance(value, FoundTrackers):  # read again, as by dataclasses.replace: still nobody named them
        return value
    names = to_list("all" if value in (None, "") else value)
    if "all" in names:
        from hftrain.plugin_api.registry import Kind, registry, usable_names  # 30 ms that "none" need not pay

        for name in names:
            if name not in ("all", "none"):
                registry().find(Kind.TRACKER, name)  # raises where there is none
        return FoundTrackers(usable_names(Kind.TRACKER))
    return [name for name in names if name != "none"]


def _fsdp(value: Any) -> list[Enum]:
    is_switch = isinstance(value, bool)
    return to_options(FSDPOption)(("full_shard" if value else "") if is_switch else value)  # type: ignore[no-any-return]


SPECIAL: Mapping[str, Converter] = {
    "accelerator_config": to_accelerator_config,
    "debug": to_options(DebugOption),
    "eval_delay": lambda value: 0 if value is None else to_number(value),
    "eval_steps": lambda value: None if value is None else _to_steps(value),
    "fsdp": _fsdp,
    "generation_config": lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value,
    "log_level": lambda value: to_str(value).lower(),
    "log_level_replica": lambda value: to_str(value).lower(),
    "logging_steps": _to_steps,
    "lr_scheduler_kwargs": lambda value: to_dict(value or {}),
    "max_grad_norm": lambda value: 0.0 if value is None else to_number(value),  # None: no clipping, as in the reference
    "max_shard_size": lambda value: to_str(value) if isinstance(value, str) else f"{to_int(value)}B",
    "optim_target_modules": lambda value: value if value is None or isinstance(value, str) else to_list(value),
    "output_dir": lambda value: None if value is None else os.path.expanduser(to_str(value)),
    "logging_dir": lambda value: None if value is None else os.path.expanduser(to_str(value)),
    "report_to": _to_trackers,
    "resume_from_checkpoint": lambda value: value if value is None or isinstance(value, bool) else to_str(value),
    "save_steps": _to_steps,
    "hub_token": _to_token,
    "push_to_hub_token": _to_token,
}

BY_TYPE: tuple[tuple[Any, Converter], ...] = (  # the first that the declaration names
    (dict, to_dict),
    (list, to_list),
    (bool, to_bool),
    (float, to_number),
    (int, to_int),
    (str, to_str),
)


def _converter(name: str, declared: Any) -> Converter:
    if name in SPECIAL:
        return SPECIAL[name]
    is_union = get_origin(declared) in (Union, types.UnionType)
    members = get_args(declared) if is_union else (declared,)
    choices = [member for member in members if isinstance(member, type) and issubclass(member, Enum)]
    origins = {get_origin(member) or member for member in members}
    convert = to_choice(choices[0]) if choices else next(convert for kind, convert in BY_TYPE if kind in origins)
    if type(None) not in members:
        return convert
    return lambda value: None if value is None or value == "" else convert(value)


def converters(group: Any) -> Mapping[str, Converter]:
    """Name -> converter, for the arguments that hftrain declares; a user's own fields are the user's business.

    But for those that a subclass adds to ``_VALID_DICT_FIELDS``: JSON text given for them becomes a dict.
    """
    return _converters(group)


@cache
def _converters(group: Any) -> Mapping[str, Converter]:
    found: dict[str, Converter] = {}
    for owner in reversed(group.__mro__):
        if owner.__module__.startswith("hftrain.args.") and "__dataclass_fields__" in vars(owner):
            own = vars(owner).get("__annotations__", {})
            hints = get_type_hints(owner)
            arguments = {field.name for field in fields(owner)}
            found |= {name: _converter(name, hints[name]) for name in own if name in arguments}
    named = [name for name in getattr(group, "_VALID_DICT_FIELDS", ()) if name in group.__dataclass_fields__]
    return {name: _json_text_to_dict for name in named} | found


def converted(group: Any, name: str, value: Any) -> Any:
    """The value as the argument's declared type.

    Raises:
        UnfitError: it cannot become that; the text is a whole sentence that names the argument and its value.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    try:
        return converters(group)[name](value)
    except UnfitError as unfit:
        raise UnfitError(f"{shown(name, value)}: {str(unfit).removesuffix('.')}.") from None
