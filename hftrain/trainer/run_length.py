"""Where a run's batches come from and how many steps they make: at its start, and again when batches change size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hftrain.core.horizon import Horizon, compute_horizon
from hftrain.data.epochs import EpochLoader
from hftrain.errors import ConfigurationError
from hftrain.trainer.settings import data_seed

if TYPE_CHECKING:
    from hftrain.core.runner import LoopSettings, Position
    from hftrain.trainer.trainer import Trainer


def training_source(trainer: Trainer) -> EpochLoader:
    """Return the epochs of the Trainer's training loader. All ranks must call this.

    Raises:
        ConfigurationError: one rank has more batches than another; its last step would wait for a partner forever.
    """
    source = EpochLoader(trainer.get_train_dataloader(), seed=data_seed(trainer.args))
    counts = trainer._running_engine().gather_object(source.num_batches)
    if len(set(counts)) > 1:
        raise ConfigurationError(
            f"The processes have {', '.join(map(str, counts))} training batches, and each step needs all of them. Set "
            "even_batches=True in accelerator_config, or dataloader_drop_last=True, or give loaders of equal length."
        )
    return source


def horizon_of(trainer: Trainer, source: EpochLoader, settings: LoopSettings) -> Horizon:
    """Return how long a run from step 0 is."""
    args, world_size = trainer.args, trainer._running_engine().world_size
    per_batch = source.global_batch_size or trainer._train_batch_size * world_size
    return compute_horizon(
        num_batches=source.num_batches,
        num_examples=source.num_samples,
        num_train_epochs=args.num_train_epochs,
        max_steps=args.max_steps,
        accumulation_steps=settings.accumulation_steps,
        total_batch_size=per_batch * settings.accumulation_steps,
    )


def horizon_from(
    horizon: Horizon, source: EpochLoader, settings: LoopSettings, position: Position, *, global_step: int
) -> Horizon:
    """Return the horizon whose end is where the data ends, for steps of another size than the ``global_step`` done."""
    left = source.remaining(samples_done=position.samples, batches_done=position.batches)
    if not horizon.epoch_based or left is None:
        return horizon
    per_epoch = horizon.num_update_steps_per_epoch
    done = (position.epoch + 1) * per_epoch - math.ceil(left / settings.accumulation_steps)
    return replace(horizon, max_steps=global_step + max(horizon.max_steps - done, 0))
