"""Reads DVCLive's folder."""

from __future__ import annotations

import csv
import json
from typing import Any


def read(folder: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    with open(f"{folder}/dvclive/plots/metrics/train/loss.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with open(f"{folder}/dvclive/params.yaml", encoding="utf-8") as file:
        params = dict(YAML(typ="safe").load(file))
    with open(f"{folder}/dvclive/metrics.json", encoding="utf-8") as file:
        summary = json.load(file)
    points = {int(row["step"]): float(row["loss"]) for row in rows}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": summary.get("status"),
        "artifacts": [],
        "runs": 1,
    }
