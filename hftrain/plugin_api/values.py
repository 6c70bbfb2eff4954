"""What is sent away from a run: plain values of JSON, without secrets and without what no service can take."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MASK = "***"
_SECRET_KEY = re.compile(r"token|key|secret|password", re.IGNORECASE)
_WORD_OF_TEXT = re.compile(
    r"tokenizer|(^|_)(num|max|min|average|new|input|special|added|suppress|image|video|audio)_tokens"
    r"|(^|_)(bos|eos|pad|unk|sep|cls|mask|image|video|decoder_start)_token",
    re.IGNORECASE,
)
"""Words of language models that only look like a secret: ``num_input_tokens_seen``, ``pad_token_id``."""
NAMES_OF_PLACES = frozenset(
    f"{what}_key{plural}"
    for what in (
        "label",
        "labels",
        "target",
        "input",
        "text",
        "prompt",
        "completion",
        "image",
        "video",
        "audio",
        "sort",
    )
    for plural in ("", "s")
) | {
    "keys_to_ignore",
    "keys_to_ignore_at_inference",
    "_keys_to_ignore_on_load_missing",
    "_keys_to_ignore_on_load_unexpected",
    "_keys_to_ignore_on_save",
    "ignore_keys",
    "ignore_keys_for_eval",
    "past_key_values",
}
"""Keys, whole and as they are written, that say where in a mapping something stands, and so hold no secret."""
_LOGIN = re.compile(r"://[^/\s?#:@]*:[^/\s?#]+@")
"""A user and a password before the host of a URL."""
_MAX_DEPTH = 16


def number_of(value: Any) -> float | int | None:
    """Return a number, or what holds exactly one (a 0-d tensor, a numpy scalar), as Python's own; None for others.

    A value on an accelerator is read, which waits for the device.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    item = getattr(value, "item", None)
    if item is None or getattr(value, "ndim", 0) != 0:
        return None
    plain = item()
    return number_of(plain) if isinstance(plain, (bool, int, float)) else None


def plain(value: Any, *, depth: int = 0) -> Any:
    """Return a value as JSON has it; non-finite numbers are the strings "nan", "inf" and "-inf"."""
    if value is None or isinstance(value, (str, bool)):
        return value
    number = number_of(value)
    if number is not None:
        return number if isinstance(number, int) or math.isfinite(number) else str(float(number))
    if depth >= _MAX_DEPTH:
        return str(value)
    to_list = getattr(value, "tolist", None)
    if callable(to_list) and getattr(value, "ndim", 0) > 0:  # an array or tensor: read at once, not number by number
        return plain(to_list(), depth=depth)
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (Sequence, Collection)) and not isinstance(value, (bytes, bytearray)):
        return [plain(item, depth=depth + 1) for item in value]
    return str(value)


def finite_or_not(value: Any) -> float | int | None:
    """Return the number that `plain` wrote, non-finite ones included; None for what is no number."""
    if isinstance(value, str):
        return float(value) if value in ("nan", "inf", "-inf") else None
    return None if isinstance(value, bool) else number_of(value)


def masked(value: Any, *, secrets: Collection[str] = (), key: str = "") -> Any:
    """Return plain values with secrets replaced by ``***``, users and passwords in URLs among them.

    Args:
        value: of `plain`.
        secrets: texts that must not be sent, wherever they stand.
        key: under which it stands: one that names a token, key, secret or password hides what is under it, but for
            numbers, alone or several: ``mean_token_accuracy`` and ``num_key_value_heads`` are none.
    """
    if is_secret_key(key) and holds_text(value):
        return MASK
    if isinstance(value, dict):
        return {name: masked(item, secrets=secrets, key=name) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item, secrets=secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            if secret:
                value = value.replace(secret, MASK)
        return _LOGIN.sub(f"://{MASK}@", value)
    return value


def holds_text(value: Any) -> bool:
    """Whether a value of `plain` is, or has somewhere in it, more than numbers: only that can be a secret."""
    if value is None or value == "" or isinstance(value, bool):
        return False
    if isinstance(value, dict):
        return any(holds_text(item) for item in value.values())
    if isinstance(value, list):
        return any(holds_text(item) for item in value)
    return finite_or_not(value) is None


def is_secret_key(key: str) -> bool:
    """Whether what stands under a key is a secret, as far as its name tells."""
    return bool(_SECRET_KEY.search(key)) and not _WORD_OF_TEXT.search(key) and key not in NAMES_OF_PLACES


def flat(values: Mapping[str, Any], *, separator: str = "/", prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one: ``{"a": {"b": 1}}`` is ``{"a/b": 1}``."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out |= flat(value, separator=separator, prefix=f"{name}{separator}")
        else:
            out[name] = value
    return out
