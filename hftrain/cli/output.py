"""What a verb says: one text or one JSON document on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from hftrain.errors import HftrainError


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a verb's words go.

    Attributes:
        as_json: whether stdout gets the document rather than the text; exactly one of them, also after an error.
    """

    as_json: bool = False

    def result(self, document: Any, text: str) -> None:
        """Give the verb's result, as JSON or to be read."""
        _print(json.dumps(_finite(document), indent=2, allow_nan=False) if self.as_json else printable(text))

    def message(self, text: str) -> None:
        """Say something beside the result."""
        print(printable(text), file=sys.stderr)

    def error(self, error: HftrainError | OSError) -> None:
        """Say what went wrong. With JSON asked for, the document says it too."""
        text = str(error) if isinstance(error, HftrainError) else f"{type(error).__name__}: {error}"
        self.message(text)
        if self.as_json:
            _print(json.dumps({"error": {"type": type(error).__name__, "text": text}}, indent=2))


def _print(text: str) -> None:
    """Print to stdout. Whoever reads it may have seen enough; the verb's exit code is told all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> str:
    """Lay rows out in columns, two spaces apart; those named in ``right`` end at one edge, as numbers do."""
    lines = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal: a stranger's file may hold it."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


def _finite(node: Any) -> Any:
    """The same document with "nan", "inf" and "-inf" for the numbers that JSON lacks."""
    if isinstance(node, float) and not math.isfinite(node):
        return repr(node)
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(item) for item in node]
    return node
