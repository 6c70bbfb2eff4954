"""Where a run that another trainer began stands in the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hftrain.core.position import Position

if TYPE_CHECKING:
    from hftrain.data.epochs import EpochLoader


def position_after(
    num_steps: int,
    source: EpochLoader,
    *,
    accumulation_steps: int,
    batch_size: int,
    batch_size_then: int | None,
    drop_last: bool = False,
) -> Position:
    """Return where in the data a run is after so many optimizer steps.

    Args:
        num_steps: steps done.
        source: the training batches.
        accumulation_steps: micro-batches of a whole step; the last one of an epoch may have fewer.
        batch_size: samples of a micro-batch on one device.
        batch_size_then: the same in the run that made the steps; None if it is not known to be another.
        drop_last: whether an epoch's last batch is left out where it is not full.
    """
    num_batches, per_batch = source.num_batches, source.global_batch_size or 0
    if num_batches is None:
        return _position(source, epoch=0, batches=num_steps * accumulation_steps, per_batch=per_batch)
    if batch_size_then not in (None, batch_size) and per_batch and source.num_samples is not None:
        per_batch = per_batch * batch_size_then // batch_size
        num_batches = (math.floor if drop_last else math.ceil)(source.num_samples / per_batch)
    steps_per_epoch = max(math.ceil(num_batches / accumulation_steps), 1)
    epoch, steps = divmod(num_steps, steps_per_epoch)
    batches = min(steps * accumulation_steps, num_batches)
    return _position(source, epoch=epoch, batches=batches, per_batch=per_batch)


def _position(source: EpochLoader, *, epoch: int, batches: int, per_batch: int) -> Position:
    samples = batches * per_batch
    if source.num_samples is not None:
        samples = min(samples, source.num_samples)
    return Position(epoch=epoch, batches=batches, samples=samples)
