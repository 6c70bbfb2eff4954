"""Reads a run's record while it is written, each line once, and says how far the run is. No torch."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hftrain.plugin_api.runs import runs_of
from hftrain.plugin_api.spool import EVENTS, SpoolTail
from hftrain.report.runs import PARTS, RunData, RunReader, Series

_ROWS_OF_RATE = 50
"""Recent rows that the pace is measured over: enough to even out an evaluation, few enough to follow a change."""
_MOST_AT_ONCE = 20_000
_BY_TIME = re.compile(r"\d{8}-\d{6}-")
"""How the name of a run's folder begins, so that names sort as the runs began."""


class Follower:
    """A run, as far as its record has been written.

    Args:
        path: the run's folder, or an output_dir: the newest run in it, and one that begins there later.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder: str | None = None
        self._tail = SpoolTail("")
        self._reader = RunReader("")
        self._num_bytes = 0
        self._run: RunData | None = None
        self.is_behind = False
        """Whether there is more to read at once: a long record is read in pieces."""

    def read(self) -> RunData | None:
        """Return the run; None while there is none. The same object as before when there is nothing new."""
        folder = self._newest()
        if folder is None:
            return self._run
        try:
            size = os.path.getsize(os.path.join(folder, EVENTS))
            if folder != self._folder or size < self._tail.place:
                self._begin(folder)
            if self._run is None or size != self._num_bytes or self.is_behind:
                events = list(islice(self._tail.read(), _MOST_AT_ONCE))
                self.is_behind = len(events) == _MOST_AT_ONCE
                self._reader.feed(events)
                self._run, self._num_bytes = self._reader.data(), size
        except FileNotFoundError:  # removed meanwhile
            self._folder = None
        return self._run

    def _begin(self, folder: str) -> None:
        self._folder, self._run, self._num_bytes, self.is_behind = folder, None, 0, False
        self._tail, self._reader = SpoolTail(os.path.join(folder, EVENTS)), RunReader(folder)

    def _newest(self) -> str | None:
        if os.path.isfile(os.path.join(self._path, EVENTS)):
            return self._path
        found = runs_of(self._path)
        if self._folder is None:
            return found[-1] if found else None
        name = os.path.basename(self._folder)
        later = [one for one in found if os.path.basename(one) > name and _BY_TIME.match(os.path.basename(one))]
        return max(later, default=self._folder)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        elapsed_s: since it began, pauses between resumes included.
        left_s: until its end, at the pace of the last rows; None if that cannot be told.
        steps_per_second: of the last rows, evaluations and saves included.
        silent_s: since its last event.
    """

    step: int
    max_steps: int
    elapsed_s: float | None
    left_s: float | None
    steps_per_second: float | None
    silent_s: float | None


def progress_of(run: RunData, now: float) -> Progress:
    """Return how far the run is at a time (unix seconds)."""
    rate, is_running = _rate(run), run.status is None
    left = (run.max_steps - run.step) / rate if rate and is_running and run.max_steps >= run.step else None
    end = now if is_running else run.updated
    return Progress(
        step=run.step,
        max_steps=run.max_steps,
        elapsed_s=None if run.started is None or end is None else max(0.0, end - run.started),
        left_s=left,
        steps_per_second=rate,
        silent_s=None if run.updated is None else max(0.0, now - run.updated),
    )


def recent_timing(run: RunData) -> dict[str, float] | None:
    """Return, of the last rows, the seconds by what they were spent on, and ``steps``; None if that is not told."""
    if "steps" not in run.timing:
        return None
    sums = {name: math.fsum(run.timing[name].values[-_ROWS_OF_RATE:]) for name in (*PARTS, "steps")}
    return sums if sums["steps"] > 0 else None


def state_document(run: RunData, now: float) -> dict[str, Any]:
    """Return the run's state as ``hftrain watch --json`` prints it."""
    progress, last = progress_of(run, now), run.checkpoints[-1] if run.checkpoints else None
    return {
        "run": run.folder,
        "run_id": run.run_id,
        "name": run.name,
        "status": run.status or "running",
        "error": run.error,
        "epoch": run.epoch,
        **vars(progress),
        "metrics": {name: _summary(series) for name, series in run.series.items()},
        "timing": recent_timing(run),
        "checkpoint": None if last is None else {"name": last.name, "path": last.text, "step": last.step},
        "warnings": [{"step": one.step, "logger": one.name, "text": one.text} for one in run.warnings],
        "resumed_at": list(run.resumes),
        "environment": dict(run.environment),
    }


def lowest_and_highest(series: Series) -> tuple[float, float] | None:
    """Return the bounds of the finite values; None if there is none."""
    import numpy as np

    values = np.asarray(series.values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else None


def _summary(series: Series) -> dict[str, Any]:
    bounds = lowest_and_highest(series) or (None, None)
    return {
        "last": series.values[-1],
        "step": series.steps[-1],
        "min": bounds[0],
        "max": bounds[1],
        "num": len(series),
    }


def _rate(run: RunData) -> float | None:
    """Return steps per second between the first and the last of the recent rows, of this life of the run alone."""
    since = run.resumes[-1] if run.resumes else 0
    series = run.series.get("loss") or max(run.series.values(), key=len, default=Series((), (), ()))
    rows = zip(series.steps[-_ROWS_OF_RATE:], series.times[-_ROWS_OF_RATE:], strict=True)
    places = [(step, time) for step, time in rows if step > since]
    if not run.resumes and run.started is not None and len(places) == 1:
        places.insert(0, (0, run.started))
    if len(places) < 2:
        return None
    (first, begin), (last, end) = places[0], places[-1]
    return (last - first) / (end - begin) if end > begin and last > first else None
