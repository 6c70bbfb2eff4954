"""Reads CodeCarbon's emissions.csv."""

from __future__ import annotations

import csv
from typing import Any


def read(folder: str) -> dict[str, Any]:
    with open(f"{folder}/out/emissions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "energy": [float(row["energy_consumed"]) for row in rows],
        "ids": [row["experiment_id"] for row in rows],
        "countries": [row["country_iso_code"] for row in rows],
        "names": [row["project_name"] for row in rows],
    }
