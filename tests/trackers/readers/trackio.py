"""Reads Trackio's database."""

from __future__ import annotations

import glob
import json
from typing import Any


def read(folder: str) -> dict[str, Any]:
    import sqlite3

    (path,) = glob.glob(f"{folder}/trackio/*.db")
    store = sqlite3.connect(path)
    points: dict[int, float] = {}
    status = None
    names = set()
    for name, step, text in store.execute("select run_name, step, metrics from metrics order by rowid"):
        row = json.loads(text)
        names.add(name)
        status = row.get("status", status)
        if "train/loss" in row:
            points[step] = row["train/loss"]
    params: dict[str, Any] = {}
    for (text,) in store.execute("select config from configs"):
        params |= json.loads(text)
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": status,
        "artifacts": [],
        "runs": len(names),
    }
