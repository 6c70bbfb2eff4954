"""Where a run that another trainer began stands in the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hftrain.core.runner import Position

if TYPE_CHECKING:
    from hftrain.data.epochs import EpochLoader


def position_after(num_steps: int, source: EpochLoader, *, accumulation_steps: int) -> Position:
    """Return where in the data a run of this shape is after so many optimizer steps.

    Args:
        num_steps: steps done.
        source: the training batches, as they were dealt then.
        accumulation_steps: micro-batches of a whole step; the last one of an epoch may have fewer.
    """
    if source.num_batches is None:
        return _position(source, epoch=0, batches=num_steps * accumulation_steps)
    steps_per_epoch = max(math.ceil(source.num_batches / accumulation_steps), 1)
    epoch, steps = divmod(num_steps, steps_per_epoch)
    return _position(source, epoch=epoch, batches=min(steps * accumulation_steps, source.num_batches))


def _position(source: EpochLoader, *, epoch: int, batches: int) -> Position:
    samples = batches * (source.global_batch_size or 0)
    if source.num_samples is not None:
        samples = min(samples, source.num_samples)
    return Position(epoch=epoch, batches=batches, samples=samples)
