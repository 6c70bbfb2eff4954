"""How far a run has come in its data."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(kw_only=True)
class Position:
    """How far the data was consumed: what a checkpoint keeps in ``data.json``.

    Attributes:
        epoch: the epoch that the next batch comes from.
        batches: micro-batches consumed of it on each rank.
        samples: samples consumed of it over all ranks, in the epoch's seeded order.
    """

    epoch: int = 0
    batches: int = 0
    samples: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the fields as JSON."""
        return asdict(self)

    def next_epoch(self) -> None:
        """Move to the start of the next epoch."""
        self.epoch, self.batches, self.samples = self.epoch + 1, 0, 0
