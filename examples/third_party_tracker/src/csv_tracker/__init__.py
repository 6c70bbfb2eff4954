"""A tracker of one's own: ``report_to="csv"`` writes ``metrics.csv`` into the run's output_dir."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Run, Status, Tracker


class CsvTracker(Tracker):
    """One line a value: step, name, value."""

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    _file: Any = None

    def start(self, run: Run) -> str | None:
        """Open the file; a resumed run adds to it."""
        path = run.remote_id or os.path.join(run.output_dir, "metrics.csv")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - closed by finish
        return path

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the numbers of a step."""
        csv.writer(self._file).writerows([step, name, value] for name, value in metrics.items())
        self._file.flush()

    def finish(self, status: Status, error: str | None) -> None:
        """Close the file."""
        self._file.close()
