"""What a checkpoint says of state and data; and where a run that another trainer began stands in the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from hftrain.checkpoint.checks import check_rng
from hftrain.checkpoint.contents import tree_of
from hftrain.core.position import Position
from hftrain.data.places import Place
from hftrain.errors import TornCheckpointError
from hftrain.types.state import TrainerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hftrain.checkpoint.reader import CheckpointReader
    from hftrain.data.epochs import EpochLoader


def state_from(fields: Mapping[str, Any]) -> TrainerState:
    """Return the state in a ``trainer_state.json`` whose fields were checked; what no state has is left out."""
    return TrainerState(**{key: value for key, value in fields.items() if key in TrainerState.__dataclass_fields__})


def place_in(reader: CheckpointReader, *, rank: int) -> Place | None:
    """Return where this rank's loader was; where that rank wrote nothing, rank 0's stands for it.

    Raises:
        TornCheckpointError: the checkpoint holds something else under that name.
    """
    writer = next((number for number in (rank, 0) if reader.has("loader", rank=number)), None)
    if writer is None:
        return None
    tree = tree_of(reader.part("loader", rank=writer))
    if not isinstance(tree, dict) or set(tree) != set(Place.__dataclass_fields__):
        raise TornCheckpointError(f"{reader.path} has a wrong place of rank {writer}'s loader.")
    if tree["rng"] != {}:
        check_rng(tree["rng"])
    for name in ("generators", "generators_now"):
        if not isinstance(tree[name], list) or not all(map(_is_generator_state, tree[name])):
            raise TornCheckpointError(f"{reader.path} has a wrong {name} of rank {writer}'s loader.")
    return Place(**tree)


def _is_generator_state(state: Any) -> bool:
    try:
        torch.Generator().set_state(state)  # it looks at every word
    except (RuntimeError, TypeError):
        return False
    return True


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
