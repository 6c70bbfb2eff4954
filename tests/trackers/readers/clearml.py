"""Reads ClearML's offline sessions."""

from __future__ import annotations

import glob
import json
import os
import zipfile
from typing import Any


def read(folder: str) -> dict[str, Any]:
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    artifacts = set()
    for path in sorted(glob.glob(f"{folder}/cache/offline/*.zip"), key=os.path.getmtime):
        with zipfile.ZipFile(path) as archive:
            task = json.loads(archive.read("task.json"))
            lines = archive.read("metrics.jsonl").decode().splitlines()
        task = task.get("task", task)
        for line in lines:
            for event in json.loads(line):
                if (event.get("metric"), event.get("variant")) == ("train", "loss"):
                    points[event["iter"]] = event["value"]
        for section in task["hyperparams"].values():
            params |= {name: item["value"] for name, item in section.items()}
        configuration = task.get("configuration", {}).get("Model Configuration", {}).get("value", "")
        params |= dict(line.split(" = ") for line in configuration.splitlines() if " = " in line)
        artifacts |= {one["key"] for one in task.get("execution", {}).get("artifacts", [])}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": params.get("status"),
        "artifacts": sorted(artifacts),
        "runs": None,
    }
