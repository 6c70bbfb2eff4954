"""Reads DVCLive's folders."""

from __future__ import annotations

import csv
import glob
import json
import os
from typing import Any


def read(folder: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    places = [os.path.dirname(path) for path in glob.glob(f"{folder}/**/metrics.json", recursive=True)]
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ends, groups, media, artifacts = [], set(), set(), set()
    for place in sorted(places, key=lambda place: os.path.getmtime(f"{place}/metrics.json")):
        with open(f"{place}/plots/metrics/train/loss.tsv", encoding="utf-8") as file:
            points |= {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")}
        with open(f"{place}/params.yaml", encoding="utf-8") as file:
            params |= YAML(typ="safe").load(file)
        with open(f"{place}/metrics.json", encoding="utf-8") as file:
            summary = json.load(file)
        ends.append([summary.get("status"), summary.get("error")])
        groups |= {os.path.basename(os.path.dirname(place))} if os.path.basename(place).startswith("trial-") else set()
        media |= {os.path.splitext(path)[0] for path in _files(f"{place}/plots/images")}
        artifacts |= {path.removesuffix(".dvc") for path in _files(f"{place}/artifacts")} - {".gitignore"}
    return {
        "points": points,
        "params": params,
        "ends": ends,
        "groups": groups,
        "artifacts": artifacts,
        "media": media,
        "runs": len(ends),
    }


def _files(place: str) -> list[str]:
    return os.listdir(place) if os.path.isdir(place) else []
