"""Values collected on the device step by step and read by the host once per logged row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

# Folding keeps a long logging interval from holding one device allocation (512 bytes on CUDA) per step.
FOLD_AFTER = 256
# A scalar that is a view (`logits[0, 0]`) would keep its whole base alive until the next fold.
LARGEST_OWN_STORAGE_BYTES = 512


class Series:
    """Scalars in the order they were appended; tensors stay on their device until `read`."""

    __slots__ = ("_chunks", "_host", "_open")

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._host: list[float] = list(values)
        self._chunks: list[Tensor | list[float]] = []
        self._open: list[Tensor | float] = []

    def append(self, value: Tensor | float) -> None:
        """Append a number, or a 0-d tensor that carries no gradient. Never reads a tensor."""
        if isinstance(value, Tensor) and value.untyped_storage().nbytes() > LARGEST_OWN_STORAGE_BYTES:
            value = value.clone()
        self._open.append(value)
        if len(self._open) >= FOLD_AFTER:
            self._fold()

    def _fold(self) -> None:
        for kind, run in groupby(self._open, key=_kind):
            values: list[Any] = list(run)
            self._chunks.append(values if kind is None else torch.stack(values))
        self._open.clear()

    def read(self) -> list[float]:
        """Return every value so far as numbers; the series keeps them. One host read per chunk."""
        self._fold()
        for chunk in self._chunks:
            self._host.extend(chunk.tolist() if isinstance(chunk, Tensor) else chunk)
        self._chunks.clear()
        return self._host

    def stacked(self, device: torch.device) -> Tensor:
        """Return every value so far on ``device``, shape (number of values,). Reads no tensor."""
        parts = [self._host, *self._chunks, self._open]
        tensors = [torch.stack([torch.as_tensor(v, device=device) for v in part]) for part in parts if len(part)]
        return torch.cat([t.to(torch.float32) for t in tensors]) if tensors else torch.zeros(0, device=device)

    def copy(self) -> Series:
        """Return a series of the same values, which reads no tensor either."""
        copied = Series(self._host)
        copied._chunks, copied._open = list(self._chunks), list(self._open)
        return copied

    def clear(self) -> None:
        """Forget all values."""
        self._host, self._chunks, self._open = [], [], []


def _kind(value: Tensor | float) -> tuple[torch.dtype, torch.device] | None:
    return (value.dtype, value.device) if isinstance(value, Tensor) else None


class LossWindow:
    """The training loss since the last logged row, and its total since step 0.

    Every micro-batch adds its share of the step's loss (already divided by the accumulation, or by the item
    count), so the mean over a window is the sum of the shares over the number of steps.
    """

    def __init__(self, *, filter_nonfinite: bool, state: dict[str, Any] | None = None) -> None:
        state = state or {}
        self.filter_nonfinite = filter_nonfinite
        self.shares = Series(_numbers(state.get("window", ())))
        self.total = _number(state.get("total", 0.0))
        self.steps_closed = int(state.get("steps_closed", 0))

    def close(self, step: int, reduce_mean: Callable[[float], float]) -> float:
        """End the window at optimizer step ``step`` and return its mean loss over steps and ranks.

        All ranks must call this.
        """
        total = reduce_mean(self._sum())
        steps = max(step - self.steps_closed, 1)
        # A window that could not be averaged is logged as NaN and leaves the total of the run alone.
        self.total += 0.0 if self.filter_nonfinite and not math.isfinite(total) else total
        self.steps_closed = step
        self.shares.clear()
        return total / steps

    def pending(self, device: torch.device) -> Tensor:
        """Return this rank's sum over the open window as it is now, 0-d on ``device``. Reads nothing back."""
        shares = self.shares.stacked(device)
        if not self.filter_nonfinite:
            return shares.sum()
        finite = shares.isfinite()
        return shares.where(finite, 0.0).sum() * len(shares) / finite.sum().clamp(min=1)

    def _sum(self) -> float:
        shares = self.shares.read()
        if not self.filter_nonfinite:
            return math.fsum(shares) if all(map(math.isfinite, shares)) else sum(shares)
        finite = [share for share in shares if math.isfinite(share)]
        if not finite:
            return math.nan if shares else 0.0
        # A filtered step counts as the average of its window (documented for logging_nan_inf_filter).
        return math.fsum(finite) * len(shares) / len(finite)

    def state_dict(self) -> dict[str, Any]:
        """Return JSON: the open window's shares, the total of the closed ones and the step they end at."""
        shares = [_json_number(share) for share in self.shares.read()]
        return {"window": shares, "total": _json_number(self.total), "steps_closed": self.steps_closed}


def merged_windows(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one rank's part of windows that another number of ranks left open: their mean, as one share."""
    sums = [sum(_numbers(state["window"])) for state in states]
    return {**states[0], "window": [_json_number(sum(sums) / len(sums))]}


class Meters:
    """Named weighted means, filled by `TaskModule.log` and by the scalars that a step returns."""

    def __init__(self, state: dict[str, list[list[float | str]]] | None = None) -> None:
        self._values: dict[str, tuple[Series, Series]] = {
            name: (Series(_numbers(values)), Series(_numbers(weights)))
            for name, (values, weights) in (state or {}).items()
        }

    def add(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add one observation. A tensor must hold one element; it is detached and not read."""
        pair = self._values.get(name)
        if pair is None:
            pair = self._values[name] = (Series(), Series())
        for series, number in zip(pair, (value, weight), strict=True):
            series.append(number.detach().reshape(()) if isinstance(number, Tensor) else float(number))

    def close(self, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
        """Return name -> weighted mean over everything added on every rank, and start afresh.

        All ranks must call this. A name that only some ranks know is averaged over those.
        """
        sums = {name: _weighted_sum(values.read(), weights.read()) for name, (values, weights) in self._values.items()}
        self._values.clear()
        merged: dict[str, tuple[float, float]] = {}
        for of_rank in gather(sums):
            for name, (total, weight) in of_rank.items():
                before = merged.get(name, (0.0, 0.0))
                merged[name] = (before[0] + total, before[1] + weight)
        return {name: total / weight if weight else math.nan for name, (total, weight) in merged.items()}

    def copy(self) -> Meters:
        """Return meters with the same observations."""
        copied = Meters()
        copied._values = {name: (values.copy(), weights.copy()) for name, (values, weights) in self._values.items()}
        return copied

    def restore(self, copied: Meters) -> None:
        """Hold the observations of ``copied`` instead of the own."""
        self._values = copied._values

    def state_dict(self) -> dict[str, list[list[float | str]]]:
        """Return everything added since the last `close`, as JSON: name -> values, weights."""
        return {
            name: [[_json_number(number) for number in series.read()] for series in pair]
            for name, pair in self._values.items()
        }


def _weighted_sum(values: list[float], weights: list[float]) -> tuple[float, float]:
    return sum(v * w for v, w in zip(values, weights, strict=True)), sum(weights)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _number(value: float | str) -> float:
    return float(value)


def _numbers(values: Iterable[float | str]) -> list[float]:
    return [float(value) for value in values]
