"""Reads Comet's offline archives."""

from __future__ import annotations

import glob
import json
import os
import zipfile
from typing import Any


def read(folder: str) -> dict[str, Any]:
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    others: dict[str, Any] = {}
    artifacts, keys = set(), set()
    for path in sorted(glob.glob(f"{folder}/comet/*.zip"), key=os.path.getmtime):
        with zipfile.ZipFile(path) as archive:
            keys.add(json.loads(archive.read("experiment.json"))["offline_id"])
            messages = [json.loads(line) for line in archive.read("messages.json").decode().splitlines()]
        for message in messages:
            payload = message["payload"]
            if message["type"] == "metric_msg" and payload["metric"]["metricName"] == "train/loss":
                points[payload["metric"]["step"]] = payload["metric"]["metricValue"]
            elif message["type"] == "parameter_msg":
                for param in payload.get("params") or [payload["param"]]:
                    params[param["paramName"]] = param["paramValue"]
            elif message["type"] == "log_other":
                others[payload["key"]] = payload["value"]
            elif message["type"] == "file_upload":
                artifacts.add(payload["additional_params"]["fileName"].partition("/")[0])
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": others.get("status"),
        "artifacts": sorted(artifacts),
        "runs": len(keys),
    }
