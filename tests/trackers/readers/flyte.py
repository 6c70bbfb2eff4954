"""Reads the decks that Flyte writes, and the checkpoints of its tasks."""

from __future__ import annotations

import glob
import html
import os
import re
from pathlib import Path
from typing import Any


def read(folder: str) -> dict[str, Any]:
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ends, groups, media = [], set(), set()
    for path in sorted(glob.glob(f"{folder}/**/deck.html", recursive=True), key=os.path.getmtime):
        page = html.unescape(Path(path).read_text(encoding="utf-8"))
        points |= _losses(page)
        facts = dict(re.findall(r"<p>(\w+) = (.*?)</p>", page, flags=re.DOTALL))
        if "status" in facts:
            params |= facts
            ends.append([facts["status"], facts.get("error")])
            groups |= {facts["group"]} if "group" in facts else set()
        media |= set(re.findall(r"<h3>(\w+), step", page))
    weights = glob.glob(f"{folder}/**/__cp/model.safetensors", recursive=True)
    return {
        "points": points,
        "params": params,
        "status": ends[-1][0] if ends else None,
        "ends": ends,
        "groups": groups,
        "artifacts": ["checkpoint"] if weights else [],
        "media": media,
        "runs": len(ends),
    }


def _losses(page: str) -> dict[int, float]:
    """Return the column train/loss of the table of rows."""
    for table in re.findall(r"<table.*?</table>", page, flags=re.DOTALL):
        names = re.findall(r"<th>(.*?)</th>", table)
        if "train/loss" in names:
            rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
            column = names.index("train/loss")
            return {int(row[0]): float(row[column]) for row in rows if row[column]}
    return {}
