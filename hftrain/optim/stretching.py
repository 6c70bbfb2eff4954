"""Schedules of a run whose end has moved: the rate goes on where it is, and the rest is stretched to the new end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hftrain.optim import curves


@dataclass(frozen=True)
class Stretch:
    """Which step of a schedule each step of the run takes: in lines through knots.

    Attributes:
        knots: (step of the run, step of the schedule), both rising, from (0, 0) to where both end.
    """

    knots: tuple[tuple[int, float], ...]

    @property
    def length(self) -> int:
        """How many steps the schedule was made for."""
        return int(self.knots[-1][1])

    @property
    def end(self) -> int:
        """The run's last step."""
        return self.knots[-1][0]

    def __call__(self, step: int) -> float:
        """Return the step of the schedule."""
        index = bisect_right(self.knots, step, key=lambda knot: knot[0])
        start, value = self.knots[index - 1]
        if index == len(self.knots):
            return value + (step - start)
        end, then = self.knots[index]
        return value + (step - start) * (then - value) / (end - start)

    def moved(self, end: int, *, at: int) -> Stretch:
        """Return the same up to the step ``at``, which is before its end, and from there in a line to ``end``."""
        before = tuple(knot for knot in self.knots if knot[0] < at)
        return Stretch((*before, (at, self(at)), (max(end, at + 1), float(self.length))))


def stretch_of(scheduler: Any) -> Stretch | None:
    """Return how a scheduler is stretched; None if it is not."""
    curve = next(iter(getattr(scheduler, "lr_lambdas", ())), None)
    by = getattr(curve, "keywords", {}).get("by")
    return by if isinstance(by, Stretch) else None


def is_stretchable(scheduler: Any) -> bool:
    """Whether a scheduler follows one of the documented curves, which are defined between steps too."""
    factors: Sequence[Any] = getattr(scheduler, "lr_lambdas", ())
    return bool(factors) and all(_is_curve(factor) for factor in factors)


def stretch(scheduler: Any, by: Stretch) -> None:
    """Let a scheduler that `is_stretchable` follow its curve stretched; from its next step on.

    Nothing of it is in the scheduler's ``state_dict``.
    """
    scheduler.lr_lambdas = [partial(curves.stretched, curve=_curve_of(it), by=by) for it in scheduler.lr_lambdas]


def unstretched(length: int) -> Stretch:
    """Return that of a schedule whose steps are the run's."""
    return Stretch(((0, 0.0), (length, float(length))))


def move_end(scheduler: Any, *, length: int, end: int) -> None:
    """Let a scheduler that was made for ``length`` steps end at ``end``, its rate going on from where it is."""
    before = stretch_of(scheduler) or unstretched(length)
    if before.end != end and before(scheduler.last_epoch) < before.length:
        stretch(scheduler, before.moved(end, at=scheduler.last_epoch))


def _curve_of(factor: Any) -> Any:
    return factor.keywords["curve"] if getattr(factor, "func", None) is curves.stretched else factor


def _is_curve(factor: Any) -> bool:
    return getattr(getattr(factor, "func", factor), "__module__", None) == curves.__name__
