"""How much a page may hold: one with less of everything is made until it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

MAX_ROWS = 300
"""Checkpoints, warnings, metrics and settings of a kind that a page lists of a run; of most it tells the number."""
MAX_LETTERS = 1000
_LEAST_POINTS, _LEAST_ROWS, _LEAST_LETTERS = 1000, 8, 60
_SETTINGS = ("arguments", "model", "environment", "params", "curves", "totals")
_LISTS = ("checkpoints", "artifacts", "warnings", "media", "resumes")
_NUMBERS = ("curves", "rate", "timing", "media")
_MEDIA = ("image", "text", "counts", "edges")


@dataclass(frozen=True, kw_only=True)
class Room:
    """Limits of a page.

    Attributes:
        points: that all curves may have together.
        media_bytes: for what the runs show beside numbers, together.
        rows: of each list of a run.
        letters: of each text.
        runs: how many; None is all.
    """

    points: int = 190_000
    media_bytes: int = 900_000
    rows: int = MAX_ROWS
    letters: int = MAX_LETTERS
    runs: int | None = None

    def less(self, document: Mapping[str, Any]) -> Room:
        """Return less of what takes most of this document; never the same, so that a page fits in the end."""
        are_words_most = 2 * _size(_words(document)) > _size(document)
        if self.points > _LEAST_POINTS and not are_words_most:
            return replace(self, points=self.points // 2, media_bytes=self.media_bytes // 2)
        if self.rows > _LEAST_ROWS:
            letters = max(self.letters // 2, _LEAST_LETTERS)
            return replace(self, rows=max(self.rows // 2, _LEAST_ROWS), letters=letters)
        if self.points > _LEAST_POINTS:
            return replace(self, points=_LEAST_POINTS, media_bytes=0)
        return replace(self, runs=max(len(document["runs"]) // 2, 1))

    def trimmed(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document with as many rows and letters as there is room for."""
        runs = [self._trimmed_run(run) for run in document["runs"]]
        shared = {part: self._cut(self._first(found)) for part, found in document["shared"].items()}
        return {**document, "runs": runs, "shared": shared, "differing": self._cut(document["differing"][: self.rows])}

    def _trimmed_run(self, run: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: self._first(value) if name in _SETTINGS else value for name, value in run.items()
        }
        found |= {name: self._last(found[name], is_newest=name != "warnings") for name in _LISTS}
        error = None if run["error"] is None else cut(run["error"], 4 * self.letters)
        return {name: self._cut(value) for name, value in found.items()} | {"error": error}

    def _first(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return dict(list(settings.items())[: self.rows])

    def _last(self, rows: list[Any], *, is_newest: bool) -> list[Any]:
        return rows[-self.rows :] if is_newest else rows[: self.rows]

    def _cut(self, value: Any) -> Any:
        """Cut texts, and names, wherever they stand; what a run shows has a limit of its own."""
        if isinstance(value, str):
            return cut(value, self.letters)
        if isinstance(value, list):
            return [self._cut(one) for one in value] if value and isinstance(value[0], (str, dict)) else value
        if isinstance(value, dict):
            return {cut(name, self.letters): one if name in _MEDIA else self._cut(one) for name, one in value.items()}
        return value


def cut(text: str, limit: int = MAX_LETTERS) -> str:
    """Return the text, or its beginning and a mark."""
    return text if len(text) <= limit else f"{text[: limit - 2]} …"


def _words(document: Mapping[str, Any]) -> dict[str, Any]:
    runs = [{name: value for name, value in run.items() if name not in _NUMBERS} for run in document["runs"]]
    return {**document, "runs": runs}


def _size(document: Mapping[str, Any]) -> int:
    return len(json.dumps(document, ensure_ascii=False))
