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
    ends, groups, projects = [], set(), set()
    artifacts, media, keys = set(), set(), set()
    for path in sorted(glob.glob(f"{folder}/comet/*.zip"), key=os.path.getmtime):
        with zipfile.ZipFile(path) as archive:
            if not archive.namelist():  # of a killed process: its rows are told again by the next one
                continue
            experiment = json.loads(archive.read("experiment.json"))
            messages = [json.loads(line) for line in archive.read("messages.json").decode().splitlines()]
        keys.add(experiment["offline_id"])
        projects.add(experiment["project_name"])
        others: dict[str, Any] = {}
        for message in messages:
            payload = message["payload"]
            if message["type"] == "metric_msg" and payload["metric"]["metricName"] == "train/loss":
                points[payload["metric"]["step"]] = payload["metric"]["metricValue"]
            elif message["type"] == "parameter_msg":
                param = payload.get("params") or payload["param"]
                params[param["paramName"]] = param["paramValue"]
            elif message["type"] == "log_other":
                others[payload["key"]] = payload["value"]
            elif message["type"] == "file_upload":
                (artifacts if payload["upload_type"] == "asset" else media).add(_name_of(payload))
        ends.append([others.get("status"), others.get("error")])
        groups |= {others["group"]} if "group" in others else set()
    return {
        "points": points,
        "params": params,
        "ends": ends,
        "groups": groups,
        "artifacts": artifacts,
        "media": media,
        "runs": len(keys),
        "project": ", ".join(projects),
    }


def _name_of(upload: dict[str, Any]) -> str:
    more = upload["additional_params"]
    if upload["upload_type"] == "text-sample":
        return str(upload["metadata"]["name"])
    return str(more.get("figName") or more["fileName"].partition("/")[0].removesuffix(".json"))
