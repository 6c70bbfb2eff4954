"""The texts that must come out nowhere, as far as this process can know them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from hftrain.plugin_api.values import is_secret_key

_LENGTH = 6
"""A shorter one is a word ("true", "1"), and no secret."""


def surrounding_secrets() -> tuple[str, ...]:
    """Return the tokens and keys of the environment, and the hub's token that a login left on the disk."""
    return longest_first([*(value for name, value in os.environ.items() if is_secret_key(name)), _stored_token()])


def longest_first(texts: Iterable[object]) -> tuple[str, ...]:
    """Return those that are texts, and no mere words, once each; the longest first: one may be another's beginning."""
    kept = {text for text in texts if isinstance(text, str) and len(text) >= _LENGTH}
    return tuple(sorted(kept, key=lambda text: (-len(text), text)))


def _stored_token() -> str | None:
    home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
    try:
        with open(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"), encoding="utf-8") as file:
            return file.read(1000).strip()
    except (OSError, ValueError):
        return None
