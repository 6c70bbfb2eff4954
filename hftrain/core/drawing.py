"""How the micro-batches of one step are drawn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from hftrain.core.ports import Task

logger = logging.getLogger(__name__)

_END = object()

Draw = Callable[[Iterator[Any], int], tuple[Sequence[Any], Any]]


class StepDrawer:
    """Draws the micro-batches of one step after the other.

    Args:
        task: says whether items are counted.
        take_rng: returns the state of the random generators.
        by: takes them from the iterator instead; see `LoopRunner`.

    Attributes:
        drawn_from: the random state from which the latest step's micro-batches were drawn, if all were drawn at once.
    """

    def __init__(self, task: Task, take_rng: Callable[[], Any], by: Draw | None = None) -> None:
        self._task = task
        self._take_rng = take_rng
        self._draw = by
        self._ended_early = False
        self.drawn_from: Any = None

    def draw(self, batches: Iterator[Any], wanted: int, *, is_exact: bool) -> tuple[Iterable[Any], int, Any]:
        """Draw a step's micro-batches: lazily where the length is known and nothing is counted, else as a list.

        The first batch is drawn before the step begins, the others inside it: nothing is held or drawn ahead, so a
        checkpoint between steps sees the random state of exactly the batches that were used.

        Args:
            batches: the rest of the epoch.
            wanted: how many micro-batches the step has.
            is_exact: whether so many are known to be there.
        """
        if wanted > 1 and (self._draw is not None or self._task.counts_items or not is_exact):
            self.drawn_from = self._take_rng()
        if self._draw is not None:
            group, num_items = self._draw(batches, wanted)
            return group, len(group), num_items
        first = next(batches, _END)
        if first is _END:
            return (), 0, None
        if wanted == 1:
            return (first,), 1, None
        if is_exact and not self._task.counts_items:
            return chain((first,), islice(batches, wanted - 1)), wanted, None
        group = [first, *islice(batches, wanted - 1)]
        return group, len(group), None

    def warn_ended_early(self, total: int | None, num_batches: int) -> None:
        """Say once that a loader ended after ``num_batches`` where it promised ``total``."""
        if total is not None and not self._ended_early:
            self._ended_early = True
            logger.warning(
                "The training loader says it has %d batches and ended after %d. Its __len__ should tell the truth: "
                "steps, epochs and schedule are computed from it.",
                total,
                num_batches,
            )
