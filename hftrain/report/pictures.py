"""What a run showed beside numbers, put into a page as far as there is room: nothing outside the run's folder."""

from __future__ import annotations

import base64
import os
import zipfile
from collections.abc import Sequence
from typing import Any

from hftrain.report.curves import short
from hftrain.report.runs import Note

MAX_TEXT = 20_000
MAX_HISTOGRAM_BYTES = 1_000_000
_IMAGE_TYPES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
"""By what they begin with; never SVG, which can hold scripts."""


def shown_media(folder: str, media: Sequence[Note], room: int) -> list[dict[str, Any]]:
    """Return what the page shows, in the order it was told.

    Args:
        folder: of the run.
        media: what it told.
        room: bytes of the page that there are for it; the newest come first, the others are named only.
    """
    entries = []
    for note in reversed(media):
        entry = {"name": note.name, "kind": note.kind, "step": note.step, "path": note.text}
        content = _content(folder, note, room)
        room -= _size(content)
        entries.append(entry | content)
    return entries[::-1]


def _content(folder: str, note: Note, room: int) -> dict[str, Any]:
    root = os.path.realpath(folder)
    path = "/" if "\0" in note.text else os.path.realpath(os.path.join(root, note.text))
    if not path.startswith(os.path.join(root, "")):
        return {"why": "it lies outside the run's folder"}
    reader = {"image": _image, "histogram": _histogram, "text": _text}.get(note.kind)
    if reader is None:
        return {"why": f"a page shows no {note.kind or 'such thing'}"}
    try:
        if os.path.getsize(path) > max(room, 0) * 3 // 4 and note.kind == "image":
            return {"why": "the page would grow too large"}
        content = reader(path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        return {"why": f"it cannot be read ({type(error).__name__})"}
    return content if _size(content) <= room else {"why": "the page would grow too large"}


def _image(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read()
    kind = next((kind for start, kind in _IMAGE_TYPES.items() if data.startswith(start)), None)
    if kind is None:
        raise ValueError("it is neither PNG, JPEG nor GIF")
    return {"image": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}


def _histogram(path: str) -> dict[str, Any]:
    import numpy as np

    if os.path.getsize(path) > MAX_HISTOGRAM_BYTES:
        raise ValueError("it is too large")
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        counts, edges = np.asarray(file["counts"], float).ravel(), np.asarray(file["edges"], float).ravel()
    if len(edges) != len(counts) + 1 or not (np.isfinite(counts).all() and np.isfinite(edges).all()):
        raise ValueError("its counts and edges do not fit")
    return {"counts": [short(one) for one in counts.tolist()], "edges": [short(one) for one in edges.tolist()]}


def _text(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(MAX_TEXT + 1)
    return {"text": text[:MAX_TEXT], "is_cut": len(text) > MAX_TEXT}


def _size(content: dict[str, Any]) -> int:
    return len(str(content))
