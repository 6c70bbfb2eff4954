"""The shapes of the learning-rate schedules: pure functions of a step, in factors of the initial learning rate.

``start`` is the step after the warm-up and ``end`` the horizon; a horizon inside the warm-up is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Curve = Callable[[float], float]
"""Step, counted from 0, to the factor of the initial learning rate; defined between steps too."""


def stretched(step: int, *, curve: Curve, by: Callable[[int], float]) -> float:
    """Follow ``curve``, each step being that step of it which ``by`` says."""
    return curve(by(step))


def constant(step: float) -> float:
    """The initial learning rate."""
    return 1.0


def warmed_up(step: float, *, num_warmup_steps: int, then: Curve) -> float:
    """Rise from 0 in a line over ``num_warmup_steps``, and follow ``then`` from there."""
    return step / max(1, num_warmup_steps) if step < num_warmup_steps else then(step)


def _progress(step: float, *, start: int, end: int) -> float:
    return (step - start) / max(1, end - start)


def _half_cosine(turns: float) -> float:
    """1 at 0 turns, 0 at half a turn."""
    return 0.5 * (1.0 + math.cos(2.0 * math.pi * turns))


def _raised(factor: float, floor: float) -> float:
    """Map 0..1 to ``floor``..1."""
    return max(0.0, factor * (1.0 - floor) + floor)


def line_down(step: float, *, start: int, end: int) -> float:
    """From 1 to 0 in a line."""
    return max(0.0, (end - step) / max(1, end - start))


def cosine_down(step: float, *, start: int, end: int, num_cycles: float, floor: float = 0.0) -> float:
    """``num_cycles`` waves of a cosine between 1 and ``floor``; it goes on past ``end``."""
    return _raised(_half_cosine(num_cycles * _progress(step, start=start, end=end)), floor)


def cosine_restarts(step: float, *, start: int, end: int, num_cycles: int) -> float:
    """``num_cycles`` falls from 1 to 0 along half a cosine; 0 from ``end`` on."""
    progress = _progress(step, start=start, end=end)
    return 0.0 if progress >= 1.0 else _half_cosine(0.5 * ((num_cycles * progress) % 1.0))


def polynomial_down(step: float, *, start: int, end: int, floor: float, power: float) -> float:
    """From 1 to ``floor`` along ``(1 - progress) ** power``; ``floor`` from ``end`` on."""
    if step > end or end <= start:
        return floor
    remaining: float = (1.0 - (step - start) / (end - start)) ** power
    return (1.0 - floor) * remaining + floor


def inverse_root(step: float, *, shift: int, timescale: int) -> float:
    """1 where ``step + shift`` is ``timescale``, and down with the inverse root from there."""
    return 1.0 / math.sqrt((step + shift) / timescale)


def _linear_ease(progress: float, *, num_cycles: float) -> float:
    return 1.0 - progress


def _cosine_ease(progress: float, *, num_cycles: float) -> float:
    return _half_cosine(num_cycles * progress)


def _root_ease(progress: float, *, num_cycles: float) -> float:
    return 1.0 - math.sqrt(progress)


# Progress 0..1 to a factor 1..0.
EASES: Mapping[str, Callable[..., float]] = {"linear": _linear_ease, "cosine": _cosine_ease, "1-sqrt": _root_ease}


def warmup_stable_decay(
    step: float, *, warmup: int, stable: int, decay: int, rise: str, fall: str, floor: float, num_cycles: float
) -> float:
    """Rise from ``floor`` to 1, stay, fall to ``floor``; all three given by their lengths in steps."""
    if step < warmup:
        # A rise is its fall run backwards, always over half a cosine: num_cycles shapes the decay only.
        return _raised(EASES[rise](1.0 - step / max(1, warmup), num_cycles=0.5), floor)
    if step < warmup + stable:
        return 1.0
    if step < warmup + stable + decay:
        return _raised(EASES[fall]((step - warmup - stable) / max(1, decay), num_cycles=num_cycles), floor)
    return floor
