"""Curves as a page carries them: few enough points, whose extremes are those of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hftrain.report.runs import Series

MAX_POINTS = 2000
MAX_ODD = 100
"""Of so many values that are not finite a page tells the steps; of the others it tells the number."""
_DIGITS = 7


def encoded(series: Series, limit: int = MAX_POINTS) -> dict[str, Any]:
    """Return a curve as JSON.

    ``steps`` holds the first step and then the distances, which takes a third of the room; ``values`` have seven
    digits. ``num`` is how many points the run told; ``odd`` lists steps whose values are not finite, ``num_odd`` all.
    ``last``, ``min`` and ``max`` are of the whole series, each as (step, value).
    """
    steps = np.asarray(series.steps, dtype=np.int64)
    values = np.asarray(series.values, dtype=np.float64)
    is_finite = np.isfinite(values)
    odd = np.flatnonzero(~is_finite)
    curve: dict[str, Any] = {"num": len(values), "num_odd": len(odd)}
    curve["odd"] = [[int(steps[place]), str(float(values[place]))] for place in odd[:MAX_ODD]]
    steps, values = steps[is_finite], values[is_finite]
    curve |= _extremes(steps, values)
    kept = kept_places(values, limit)
    curve["steps"] = np.diff(steps[kept], prepend=0).tolist()
    curve["values"] = [short(value) for value in values[kept].tolist()]
    return curve


def kept_places(values: npt.NDArray[np.float64], limit: int) -> npt.NDArray[np.intp]:
    """Return which points to keep, at most ``limit``: the ends, and the lowest and highest of each part between."""
    if len(values) <= limit:
        return np.arange(len(values))
    if limit < 4:
        return np.linspace(0, len(values) - 1, max(limit, 1)).astype(np.intp)
    bounds = np.linspace(1, len(values) - 1, (limit - 2) // 2 + 1).astype(np.intp)
    places = [0, len(values) - 1]
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        if end > begin:
            part = values[begin:end]
            places += [begin + int(part.argmin()), begin + int(part.argmax())]
    return np.unique(np.asarray(places, dtype=np.intp))


def shared_limit(sizes: Sequence[int], budget: int) -> int:
    """Return the highest number of points a curve, at most `MAX_POINTS`, with which all take at most ``budget``."""
    limit = MAX_POINTS
    left, num_left = budget, len(sizes)
    for size in sorted(sizes):
        share = left // num_left
        if size > share:
            return max(2, min(limit, share))
        left, num_left = left - size, num_left - 1
    return limit


def short(value: float) -> float | int | str:
    """Return a number in as few letters as seven digits take; what is not finite as the record has it."""
    if not math.isfinite(value):
        return str(float(value))
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _extremes(steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> dict[str, Any]:
    if not len(values):
        return {"last": None, "min": None, "max": None}
    places = {"last": len(values) - 1, "min": int(values.argmin()), "max": int(values.argmax())}
    return {name: [int(steps[place]), short(float(values[place]))] for name, place in places.items()}
