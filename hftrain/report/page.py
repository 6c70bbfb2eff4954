"""One file that shows runs in a browser, and asks nothing of anybody: script, style and numbers are in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from hftrain.errors import PluginUnavailableError
from hftrain.plugin_api.needs import report_lacks
from hftrain.report.document import document_of
from hftrain.report.room import Room, cut
from hftrain.report.runs import RunData

MAX_BYTES = 8_000_000
NAME = "report.html"
_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("model.js", "charts.js", "tables.js", "page.js")
_PLACE = re.compile(r"<!--put:(\w+)-->")


def page_of(runs: Sequence[RunData], *, title: str | None = None) -> str:
    """Return the page.

    It has as many points, pictures, rows, letters and at last runs as `MAX_BYTES` lets it have.

    Args:
        runs: at least one.
        title: of the page; by default the run's name, or how many are compared.

    Raises:
        PluginUnavailableError: plotly is not installed.
    """
    reason = report_lacks()
    if reason is not None:
        raise PluginUnavailableError(f"A report needs {reason}")
    room = Room()
    while True:
        document = document_of(runs, room)
        page = _page(document, title)
        if len(page.encode()) < MAX_BYTES:
            return page
        room = room.less(document)


def write_page(path: str, runs: Sequence[RunData], *, title: str | None = None) -> int:
    """Write the page, whole or not at all; return its size in bytes.

    Raises:
        PluginUnavailableError: plotly is not installed.
        OSError: it cannot be written.
    """
    data = page_of(runs, title=title).encode()
    part = f"{path}.tmp"
    try:
        with open(part, "wb") as file:
            file.write(data)
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
    return len(data)


def embedded(page: str) -> dict[str, Any]:
    """Return the document that a page carries."""
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', page, re.DOTALL)
    if found is None:
        raise ValueError("it is no page of a report")
    document: dict[str, Any] = json.loads(found[1])
    return document


def _page(document: dict[str, Any], title: str | None) -> str:
    runs = document["runs"]
    title = title or (runs[0]["label"] if document["num_runs"] == 1 else f"{document['num_runs']} runs compared")
    parts = {
        "title": _escaped(cut(title)),
        "style": _asset("page.css"),
        "document": _json(document),
        "plotly": _plotly(),
        "script": "\n".join(_asset(name) for name in _SCRIPTS),
    }
    return _PLACE.sub(lambda place: parts[place[1]], _asset("page.html"))


def _json(document: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair, which UTF-8 has no bytes for
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _escaped(text: str) -> str:
    text = text.encode(errors="backslashreplace").decode()
    for letter in "&<>\"'":
        text = text.replace(letter, f"&#{ord(letter)};")
    return text


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return the script that plotly's distribution packages, without importing the package, which takes long."""
    path = distribution("plotly").locate_file("plotly/package_data/plotly.min.js")
    return Path(str(path)).read_text(encoding="utf-8")
