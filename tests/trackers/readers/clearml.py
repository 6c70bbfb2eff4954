"""Reads ClearML's offline sessions."""

from __future__ import annotations

import glob
import json
import os
import zipfile
from pathlib import Path
from typing import Any


def read(folder: str) -> dict[str, Any]:
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ends, names, tags, media, artifacts = [], [], set(), set(), set()
    for session in _sessions(f"{folder}/cache/offline"):
        task = json.loads(session["task.json"])
        task = task.get("task", task)
        for line in session.get("metrics.jsonl", "").splitlines():
            for event in json.loads(line):
                if (event.get("metric"), event.get("variant")) == ("train", "loss"):
                    points[event["iter"]] = event["value"]
                elif event["type"] in ("training_debug_image", "plot", "media"):
                    media.add(event["metric"])
        own: dict[str, Any] = {}
        for section in task["hyperparams"].values():
            own |= {name: item["value"] for name, item in section.items()}
        configuration = task.get("configuration", {}).get("Model Configuration", {}).get("value", "")
        own |= dict(line.split(" = ", 1) for line in configuration.splitlines() if " = " in line)
        params |= own
        ends.append([own.get("status"), own.get("error")])
        names.append(task["name"])
        tags |= set(task.get("tags") or [])
        artifacts |= {one["key"] for one in task.get("execution", {}).get("artifacts", [])}
    return {
        "points": points,
        "params": params,
        "ends": ends,
        "groups": tags,
        "name": names[0],
        "artifacts": artifacts,
        "media": media,
        "runs": len(ends),
    }


def _sessions(place: str) -> list[dict[str, str]]:
    """Return the files of each session in order: a folder where the process was killed, else an archive."""
    found = []
    for path in sorted(glob.glob(f"{place}/*"), key=os.path.getmtime):
        if path.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name in ("task.json", "metrics.jsonl")]
                found.append({name: archive.read(name).decode() for name in names})
        elif not os.path.exists(f"{path}.zip"):
            files = [file for file in Path(path).iterdir() if file.name in ("task.json", "metrics.jsonl")]
            found.append({file.name: file.read_text(encoding="utf-8") for file in files})
    return found
