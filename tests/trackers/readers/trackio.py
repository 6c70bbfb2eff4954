"""Reads Trackio's store."""

from __future__ import annotations

import glob
import json
import os
import sqlite3
from typing import Any


def read(folder: str) -> dict[str, Any]:
    (path,) = glob.glob(f"{folder}/trackio/*.db")
    store = sqlite3.connect(path)
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ends: dict[str, list[Any]] = {}
    groups, media = set(), set()
    for name, step, text in store.execute("select run_name, step, metrics from metrics order by rowid"):
        row = json.loads(text)
        end = ends.setdefault(name, [None, None])
        if "status" in row:
            end[:] = [row["status"], row.get("error")]
        if "train/loss" in row:
            points[step] = row["train/loss"]
        media |= {key for key, value in row.items() if isinstance(value, dict) and "_type" in value}
    artifacts = sorted(name for (name,) in store.execute("select distinct name from artifacts"))
    for (text,) in store.execute("select config from configs"):
        config = json.loads(text)
        params |= config
        groups |= {config["_Group"]} if config.get("_Group") else set()
    return {
        "points": points,
        "params": params,
        "status": list(ends.values())[-1][0],
        "ends": list(ends.values()),
        "groups": groups,
        "artifacts": artifacts,
        "media": media,
        "runs": len(ends),
        "project": os.path.basename(path).removesuffix(".db"),
    }
