"""Which checkpoints may go: pure policies, each naming the ones it keeps; what any of them keeps stays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A committed checkpoint of the run that retention is about."""

    name: str
    step: int


Policy = Callable[[Sequence[Candidate]], Collection[Candidate]]
"""Candidates in the order of their commits -> those to keep."""


def named(names: Collection[str]) -> Policy:
    """Keep those of these names: the best, the one that was loaded, those that are being uploaded."""
    return lambda candidates: [candidate for candidate in candidates if candidate.name in names]


def every(num_steps: int) -> Policy:
    """``save_keep_every_steps``: keep those whose step is a multiple of ``num_steps``."""
    return lambda candidates: [candidate for candidate in candidates if candidate.step % num_steps == 0]


def surplus(candidates: Sequence[Candidate], policies: Collection[Policy]) -> list[Candidate]:
    """Those that no policy keeps, oldest first."""
    kept = {candidate for policy in policies for candidate in policy(candidates)}
    return [candidate for candidate in candidates if candidate not in kept]


def limit(count: int, *, best: str | None) -> Policy:
    """``save_total_limit``: keep the newest ``count``, where the best is always one of them.

    With a limit of 1 and a best that is not the newest, both stay.
    """

    def keep(candidates: Sequence[Candidate]) -> list[Candidate]:
        bests = [candidate for candidate in candidates if candidate.name == best]
        others = [candidate for candidate in candidates if candidate.name != best]
        if not bests:
            return others[-count:]
        is_best_newest = candidates[-1].name == best
        num_others = count - 1 if is_best_newest else max(count - 1, 1)
        return bests + (others[-num_others:] if num_others else [])

    return keep
