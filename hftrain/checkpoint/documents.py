"""What the JSON of a checkpoint may be, whoever wrote it: each known document has its rules, by its name.

Unknown fields are not looked at, so that versions may differ.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch

from hftrain.checkpoint.layout import is_run_id, parse_step
from hftrain.checkpoint.storage import folder_of, is_same_path, join, name_of, plain_path
from hftrain.errors import TornCheckpointError
from hftrain.types.state_fields import is_amount, is_count, wrong_fields

Rule = Callable[[Any], bool]

_MAX_GENERATOR_TEXT = 100_000
_MAX_KNOTS = 100_000
_POSITION = {"epoch", "batches", "samples"}


def check_document(name: str, document: Mapping[str, Any], *, path: str) -> None:
    """Raise TornCheckpointError, with the fields that are wrong, unless a document is what its name says.

    Args:
        name: of the part, such as ``trainer_state``; any other than the known ones may hold what it wants.
        document: the JSON object.
        path: of the file, for the message.
    """
    if name == "trainer_state":
        wrong = wrong_fields({"global_step": None, **document})
    else:
        rules = _RULES.get(name, {})
        wrong = [
            f"a wrong {field} ({str(document[field])[:80]!r})"
            for field, is_right in rules.items()
            if field in document and not is_right(document[field])
        ]
    if wrong:
        raise TornCheckpointError(f"{path} has {'; '.join(wrong)}.")


def neighbour(named: str | None, path: str) -> str | None:
    """The checkpoint that a state names, beside the one at ``path`` that it is from; None if it names no checkpoint.

    A run keeps its checkpoints in one folder. A stranger's may name any place, such as a URL to be asked for.
    """
    name = name_of(plain_path(named)) if named is not None else ""
    if named is None or parse_step(name) is None:
        return None
    beside = join(folder_of(path), name)
    return named if is_same_path(named, beside) else beside


def _or_none(is_right: Rule) -> Rule:
    return lambda value: value is None or is_right(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 10_000


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_position(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == _POSITION and all(map(is_count, value.values()))


def _is_unfinished(value: Any) -> bool:
    """What is left of the step that a run was stopped in."""
    if not isinstance(value, dict):
        return False
    counts = [value.get(name, 0) for name in ("done", "of")]
    flags = [value.get(name, False) for name in ("is_drawn", "evaluate", "save", "stop_epoch", "stop_training")]
    events = (None, "on_step_end", "on_epoch_end")
    is_right = all(map(is_count, counts)) and all(isinstance(flag, bool) for flag in flags)
    return is_right and value.get("event") in events and (counts[0] < counts[1] or counts == [0, 0])


def _is_number(value: Any) -> bool:
    """A loss or a weight; ``data.json`` has words for what JSON lacks."""
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_window(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), dict) for name in ("losses", "meters")):
        return False
    losses = value["losses"]
    if not (
        _are_numbers(losses.get("window")) and _is_number(losses.get("total")) and is_count(losses.get("steps_closed"))
    ):
        return False
    pairs = value["meters"].values()
    return all(isinstance(it, list) and len(it) == 2 and all(map(_are_numbers, it)) and _as_long(*it) for it in pairs)


def _as_long(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other)


def _are_windows(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_window, value))


def _is_order(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    texts = [value.get("drawn_from"), *([value["generator"]] if "generator" in value else [])]
    size, by_own = value.get("group_size", 1), value.get("by_own", False)
    return all(map(_is_generator, texts)) and is_count(size) and 0 < size < 1 << 32 and isinstance(by_own, bool)


def _is_generator(text: Any) -> bool:
    """Whether it is the state of a generator of torch, as a try with one shows."""
    if not isinstance(text, str) or len(text) > _MAX_GENERATOR_TEXT:
        return False
    try:
        state = torch.frombuffer(bytearray(base64.b64decode(text, validate=True)), dtype=torch.uint8)
        torch.Generator().set_state(state)
    except (ValueError, RuntimeError):
        return False
    return True


def _is_length(value: Any) -> bool:
    """By how much a run's end was moved, and through which knots its schedule is stretched."""
    if not isinstance(value, dict):
        return False
    moved = [value[name] for name in ("extra_steps", "extra_epochs") if name in value]
    return all(type(it) is int and abs(it) < 1 << 63 for it in moved) and _are_knots(
        value.get("schedule", [[0, 0], [1, 1]])
    )


def _are_knots(value: Any) -> bool:
    if not isinstance(value, list) or not 2 <= len(value) <= _MAX_KNOTS:
        return False
    if not all(isinstance(it, list) and len(it) == 2 and is_count(it[0]) and is_amount(it[1]) for it in value):
        return False
    rises = all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(value))
    return rises and value[0] == [0, 0]


def _is_size(value: Any) -> bool:
    return is_count(value) and value > 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_RULES: Mapping[str, Mapping[str, Rule]] = {
    "data": {
        "position": _is_position,
        "unfinished": _is_unfinished,
        "order": _or_none(_is_order),
        "windows": _are_windows,
        "length": _or_none(_is_length),
        "seed": _or_none(is_count),
        "num_workers": _or_none(is_count),
        "num_samples": _or_none(is_count),
        "batch_size": _or_none(_is_size),
        "accumulation_steps": _or_none(_is_size),
        "world_size": _or_none(_is_size),
    },
    "run": {"run_id": is_run_id, "run_name": _or_none(_is_text), "hftrain": _is_text, "remote_ids": _are_texts},
    "task": {"class": _is_text, "arguments": _is_object},
}
