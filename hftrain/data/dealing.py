"""Dealing a stream to the ranks: rounds of consecutive units, a share of each round to every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import Any

from hftrain.errors import DataError


class Tail(StrEnum):
    """What the ranks get of a last round that is not full."""

    DROP = "drop"
    """Nothing."""
    SHORT = "short"
    """What falls to them; some ranks may go without, so the ranks may differ in their number of batches."""
    REPEAT = "repeat"
    """Full shares: the round is filled up with the first units of the stream."""
    FILLER = "filler"
    """What falls to them, and the round's first unit where nothing does, to be counted as no sample."""


@dataclass(frozen=True, kw_only=True)
class Deal:
    """One rank's part of a stream that all ranks read in the same order.

    A round is ``share * world_size`` consecutive units; rank p takes the p-th ``share`` of them. This
    is the distribution that Accelerate users know: whole batches are dealt, samples never interleaved.

    Args:
        share: units per rank and round.
        process_index: the rank.
        world_size: number of ranks.
        tail: what happens to a last round that is not full.
    """

    share: int
    process_index: int = 0
    world_size: int = 1
    tail: Tail = Tail.SHORT

    def __post_init__(self) -> None:
        if self.share < 1:
            raise DataError(f"batch_size={self.share}: a batch holds at least one sample. Set batch_size=1 or more.")
        if not 0 <= self.process_index < self.world_size:
            raise DataError(
                f"process_index={self.process_index} with world_size={self.world_size}: "
                f"ranks go from 0 to {self.world_size - 1}."
            )

    @property
    def round_size(self) -> int:
        """Units that all ranks take together."""
        return self.share * self.world_size

    @property
    def repeats(self) -> bool:
        """Whether a last round may be filled up with the first units."""
        return self.tail is Tail.REPEAT and self.world_size > 1

    @property
    def low(self) -> int:
        """Where this rank's share starts in a round."""
        return self.share * self.process_index

    def skip(self, units: Iterator[Any], num_units: int) -> list[Any]:
        """Drop the next ``num_units`` units and return those of them that a last round may repeat."""
        kept = list(islice(units, min(num_units, self.round_size))) if self.tail is Tail.REPEAT else []
        rest = num_units - len(kept)
        if rest > 0:
            next(islice(units, rest - 1, rest), None)
        return kept

    def parts(self, units: Iterator[Any], first: Sequence[Any] = ()) -> Iterator[tuple[list[Any], int]]:
        """Yield this rank's share of each round, and how many of its units count.

        Args:
            units: the stream, behind what was consumed before.
            first: the stream's first units as far as they were consumed before, from `skip`.
        """
        size, low, high = self.round_size, self.low, self.low + self.share
        head = list(first)
        while len(chunk := list(islice(units, size))) == size:
            if self.tail is Tail.REPEAT and len(head) < size:
                head += chunk[: size - len(head)]
            yield chunk[low:high], self.share
        if chunk:
            part, num_real = self.last(chunk, head + chunk[: max(size - len(head), 0)])
            if part:
                yield part, num_real

    def last(self, chunk: Sequence[Any], head: Sequence[Any]) -> tuple[list[Any], int]:
        """Return this rank's share of a round that is not full, and how many of its units count.

        Args:
            chunk: what is left of the stream, at least one unit.
            head: the stream's first units, as many as a round has or the whole stream.
        """
        return _LAST[self.tail](self, chunk, head)

    def num_rounds(self, num_units: int) -> int:
        """Return how many shares this rank gets from ``num_units`` units."""
        full, rest = divmod(num_units, self.round_size)
        return full + bool(rest and self.last(range(rest), range(min(num_units, self.round_size)))[0])


def _mine(deal: Deal, chunk: Sequence[Any]) -> list[Any]:
    return list(chunk[deal.low : deal.low + deal.share])


def _drop(deal: Deal, chunk: Sequence[Any], head: Sequence[Any]) -> tuple[list[Any], int]:
    return [], 0


def _short(deal: Deal, chunk: Sequence[Any], head: Sequence[Any]) -> tuple[list[Any], int]:
    part = _mine(deal, chunk)
    return part, len(part)


def _repeat(deal: Deal, chunk: Sequence[Any], head: Sequence[Any]) -> tuple[list[Any], int]:
    missing = deal.round_size - len(chunk)
    return _mine(deal, [*chunk, *islice(cycle(head), missing)]), len(_mine(deal, chunk))


def _filler(deal: Deal, chunk: Sequence[Any], head: Sequence[Any]) -> tuple[list[Any], int]:
    part = _mine(deal, chunk)
    return (part, len(part)) if part else ([chunk[0]], 0)


_LAST: dict[Tail, Callable[[Deal, Sequence[Any], Sequence[Any]], tuple[list[Any], int]]] = {
    Tail.DROP: _drop,
    Tail.SHORT: _short,
    Tail.REPEAT: _repeat,
    Tail.FILLER: _filler,
}


def train_tail(*, drop_last: bool, even_batches: bool, world_size: int) -> Tail:
    """Return the tail that ``dataloader_drop_last`` and ``even_batches`` ask for; one process repeats nothing."""
    if drop_last:
        return Tail.DROP
    return Tail.REPEAT if even_batches and world_size > 1 else Tail.SHORT


def length_of(data: Iterable[Any] | object) -> int | None:
    """Return ``len(data)``, or None where it has none."""
    try:
        return len(data)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
