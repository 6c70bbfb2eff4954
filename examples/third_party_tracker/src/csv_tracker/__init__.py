"""A tracker of one's own: ``report_to="csv"`` writes ``metrics.csv`` into the run's folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any

from hftrain.plugin_api.tracker import Run, Status, Tracker


class CsvTracker(Tracker):
    """One line a value: step, name, value."""

    api = 1
    requires = ()
    extra = ""

    _file: Any = None

    def start(self, run: Run) -> str | None:
        """Open the file; a resumed run goes on in it, without the steps that are trained again."""
        path, kept = os.path.join(run.folder, "metrics.csv"), []
        if run.resumed_step is not None and os.path.exists(path):
            with open(path, newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if int(row[0]) <= run.resumed_step]
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed by finish
        csv.writer(self._file).writerows(kept)
        return run.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the numbers of a step."""
        csv.writer(self._file).writerows([step, name, value] for name, value in metrics.items())
        self._file.flush()

    def finish(self, status: Status, error: str | None) -> None:
        """Close the file."""
        self._file.close()
