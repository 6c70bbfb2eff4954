"""What a page knows of its runs, as one JSON document: curves, totals, what differs between the runs, and the rest."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hftrain._version import __version__
from hftrain.plugin_api.values import flat
from hftrain.report.curves import encoded, kept_places, shared_limit, short
from hftrain.report.pictures import shown_media
from hftrain.report.room import MAX_LETTERS, MAX_ROWS, Room, cut
from hftrain.report.runs import PARTS, Note, RunData, Series, steps_per_second

MAX_TIMING_POINTS = 600
_ALWAYS_DIFFERENT = ("output_dir", "logging_dir", "run_name")
_IN_TOTALS = ("train_", "total_", "init_", "before_")


def document_of(runs: Sequence[RunData], room: Room) -> dict[str, Any]:
    """Return the document; ``num_runs`` is how many were asked for, of which there may be room for fewer.

    Args:
        runs: in the order in which they are shown.
        room: that it may take.
    """
    num_runs, runs = len(runs), runs[: room.runs]
    limit = shared_limit([size for run in runs for size in _sizes(run)], room.points)
    arguments = _Shared([_settings(run.arguments) for run in runs])
    others = {part: _Shared([_settings(getattr(run, part)) for run in runs]) for part in ("model", "environment")}
    shown = [_shown(run, label, limit) for run, label in zip(runs, labels_of(runs), strict=True)]
    num_showing = sum(bool(run.media) for run in runs)
    for place, (run, entry) in enumerate(zip(runs, shown, strict=True)):
        entry["arguments"] = arguments.own[place]
        entry |= {part: found.own[place] for part, found in others.items()}
        entry["params"] = _settings(run.params)
        entry["media"] = shown_media(run.folder, run.media[-room.rows :], room.media_bytes // max(num_showing, 1))
    differing = dict.fromkeys(name for own in arguments.own for name in own if name not in _ALWAYS_DIFFERENT)
    document = {
        "version": __version__,
        "made": time.time(),
        "limit": limit,
        "num_runs": num_runs,
        "runs": shown,
        "differing": list(differing),
        "shared": {"arguments": arguments.common, **{part: found.common for part, found in others.items()}},
    }
    return room.trimmed(document)


def labels_of(runs: Sequence[RunData]) -> list[str]:
    """Return what to call each run: its name, its trial's, or its id; what would be said twice is told apart."""
    plain = [cut(run.name or run.trial or run.run_id, 120) for run in runs]
    if len(runs) > 1:
        plain = [
            f"{one} ({run.trial})" if run.trial and run.name else one for one, run in zip(plain, runs, strict=True)
        ]
    count = Counter(plain)
    longer = [f"{one} · {run.run_id}" if count[one] > 1 else one for one, run in zip(plain, runs, strict=True)]
    count = Counter(longer)
    return [f"{one} · {place}" if count[one] > 1 else one for place, one in enumerate(longer, start=1)]


# ---- one run --------------------------------------------------------------------------------------------------------


def _sizes(run: RunData) -> list[int]:
    timing = run.timing.get("steps", ())
    parts = [min(len(timing), MAX_TIMING_POINTS)] * (len(PARTS) if timing else 0)
    return [*(len(series) for series in run.series.values()), *parts, len(steps_per_second(run))]


def _shown(run: RunData, label: str, limit: int) -> dict[str, Any]:
    totals = {name for name, series in run.series.items() if len(series) == 1 and name.startswith(_IN_TOTALS)}
    rate = steps_per_second(run)
    return {
        "label": label,
        "id": cut(run.run_id),
        "name": None if run.name is None else cut(run.name),
        "folder": cut(run.folder),
        "status": run.status,
        "error": None if run.error is None else cut(run.error, 4 * MAX_LETTERS),
        "started": _time(run.started),
        "updated": _time(run.updated),
        "step": run.step,
        "epoch": None if run.epoch is None else short(run.epoch),
        "trial": None if run.trial is None else cut(run.trial),
        "group": None if run.group is None else cut(run.group),
        "resumes": list(run.resumes[:MAX_ROWS]),
        "curves": {name: encoded(one, limit) for name, one in run.series.items() if name not in totals},
        "totals": {name: short(run.series[name].values[0]) for name in run.series if name in totals},
        "rate": encoded(rate, limit) if len(rate) else None,
        "timing": _timing(run.timing, min(limit, MAX_TIMING_POINTS)),
        "checkpoints": [_noted(note) for note in run.checkpoints[-MAX_ROWS:]],
        "num_checkpoints": len(run.checkpoints),
        "artifacts": [_noted(note) for note in run.artifacts[-MAX_ROWS:]],
        "warnings": _warnings(run.warnings),
        "num_warnings": len(run.warnings),
        "num_media": len(run.media),
    }


def _timing(timing: Mapping[str, Series], limit: int) -> dict[str, Any] | None:
    """Return the seconds of each part in all, and its milliseconds a step along the run, all at the same steps."""
    if "steps" not in timing:
        return None
    counts = np.asarray(timing["steps"].values, dtype=np.float64)
    seconds = {part: np.asarray(timing[part].values, dtype=np.float64) for part in PARTS}
    is_told = counts > 0
    per_step = {part: spent[is_told] / counts[is_told] * 1000.0 for part, spent in seconds.items()}
    kept = kept_places(np.sum(list(per_step.values()), axis=0), limit)
    steps = np.asarray(timing["steps"].steps, dtype=np.int64)[is_told][kept]
    return {
        "seconds": {part: short(float(spent.sum())) for part, spent in seconds.items()},
        "steps": np.diff(steps, prepend=0).tolist(),
        "ms": {part: [short(one) for one in spent[kept].tolist()] for part, spent in per_step.items()},
    }


def _noted(note: Note) -> dict[str, Any]:
    return {"step": note.step, "time": _time(note.time), "name": cut(note.name), "path": cut(note.text)}


def _warnings(warnings: Sequence[Note]) -> list[dict[str, Any]]:
    """Return each different warning once, with how often it was given and where first."""
    times = Counter((note.name, note.text) for note in warnings)
    first: dict[tuple[str, str], Note] = {}
    for note in warnings:
        first.setdefault((note.name, note.text), note)
    return [
        {
            "step": note.step,
            "time": _time(note.time),
            "logger": cut(note.name),
            "text": cut(note.text),
            "num": times[key],
        }
        for key, note in list(first.items())[:MAX_ROWS]
    ]


# ---- settings -------------------------------------------------------------------------------------------------------


class _Shared:
    """Splits settings of several runs into those that all have alike, and each one's own."""

    def __init__(self, settings: Sequence[Mapping[str, Any]]) -> None:
        names = dict.fromkeys(name for one in settings for name in one)
        told = {name: {_told(one, name) for one in settings} for name in names}
        self.common = {name: settings[0][name] for name in names if len(told[name]) == 1}
        self.own = [{name: one[name] for name in one if name not in self.common} for one in settings]


def _told(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], sort_keys=True) if name in settings else "absent"


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings in one layer, as JSON, cut to what a page can hold."""
    rows = list(flat(values, separator=".").items())
    return {cut(name): _setting(value) for name, value in rows[:MAX_ROWS]}


def _setting(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if abs(value) < 2**53 else str(value)  # larger ones are not what they were, in a browser
    return cut(value if isinstance(value, str) else json.dumps(value))


def _time(seconds: float | None) -> float | None:
    return None if seconds is None or not abs(seconds) < 1e12 else round(seconds, 3)
