"""The example of the README, checked as its author would."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from csv_tracker import CsvTracker

from hftrain.plugin_api.testing import check_tracker


def test_the_contract(tmp_path: Path) -> None:
    """What a run may give it, it takes, and what it wrote is what it was told."""

    def read_back() -> Iterator[tuple[int, str, float]]:
        (path,) = tmp_path.glob("runs/*/metrics.csv")
        with open(path, newline="", encoding="utf-8") as file:
            for step, name, value in csv.reader(file):
                yield int(step), name, float(value)

    check_tracker(CsvTracker, tmp_path, read_back=read_back)
