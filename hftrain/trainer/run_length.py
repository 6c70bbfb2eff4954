"""Where a run's batches come from and how many steps they make: at its start, and again when batches change size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hftrain.core.horizon import Horizon, compute_horizon
from hftrain.data.dealing import length_of
from hftrain.data.epochs import EpochLoader
from hftrain.errors import ConfigurationError
from hftrain.trainer.settings import data_seed, loop_settings

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments
    from hftrain.core.loop_settings import LoopSettings
    from hftrain.core.position import Position
    from hftrain.trainer.trainer import Trainer


def training_source(trainer: Trainer) -> EpochLoader:
    """Return the epochs of the Trainer's training loader. All ranks must call this.

    Raises:
        ConfigurationError: one rank has more batches than another; its last step would wait for a partner forever.
    """
    source = EpochLoader(
        trainer.get_train_dataloader(),
        seed=data_seed(trainer.args),
        batches_per_step=loop_settings(trainer.args).accumulation_steps,
    )
    counts = trainer._running_engine().gather_object(source.num_batches)
    if len(set(counts)) > 1:
        raise ConfigurationError(
            f"The processes have {', '.join(map(str, counts))} training batches, and each step needs all of them. Set "
            "even_batches=True in accelerator_config, or dataloader_drop_last=True, or give loaders of equal length."
        )
    return source


InitialValues = tuple[int, int, int, float, bool, int | None, int]
"""The documented order of a `Horizon`'s fields."""


def horizon_of(trainer: Trainer, source: EpochLoader) -> Horizon:
    """Return how long a run from step 0 is, as the Trainer's `set_initial_training_values` says."""
    total_batch_size = trainer.get_total_train_batch_size(trainer.args)
    values = trainer.set_initial_training_values(trainer.args, source.loader, total_batch_size)
    epochs, steps_per_epoch, num_examples, num_train_samples, epoch_based, num_batches, max_steps = values
    return Horizon(
        num_train_epochs=epochs,
        num_update_steps_per_epoch=steps_per_epoch,
        max_steps=max_steps,
        num_batches=num_batches,
        num_examples=num_examples,
        num_train_samples=num_train_samples,
        epoch_based=epoch_based,
    )


def initial_values(args: TrainingArguments, loader: Any, *, num_examples: int | None, total: int) -> InitialValues:
    """Return a run's length as `Trainer.set_initial_training_values` documents it.

    Args:
        args: the arguments.
        loader: the training loader.
        num_examples: samples of an epoch over all ranks; None when unknown.
        total: samples of one optimizer step over all ranks.
    """
    found = compute_horizon(
        num_batches=length_of(loader),
        num_examples=num_examples,
        num_train_epochs=args.num_train_epochs,
        max_steps=args.max_steps,
        accumulation_steps=loop_settings(args).accumulation_steps,
        total_batch_size=total,
    )
    return (
        found.num_train_epochs,
        found.num_update_steps_per_epoch,
        found.num_examples,
        found.num_train_samples,
        found.epoch_based,
        found.num_batches,
        found.max_steps,
    )


def horizon_from(
    horizon: Horizon, source: EpochLoader, settings: LoopSettings, position: Position, *, global_step: int
) -> Horizon:
    """Return where a run ends whose ``global_step`` steps until now had another size.

    With epochs given, it ends where their data ends; else after as many steps, in whichever epoch that is.
    """
    left = source.remaining(samples_done=position.samples, batches_done=position.batches)
    if left is None:
        return horizon
    per_epoch, steps_left = horizon.num_update_steps_per_epoch, math.ceil(left / settings.accumulation_steps)
    if horizon.epoch_based:
        done = (position.epoch + 1) * per_epoch - steps_left
        return horizon.moved(global_step + max(horizon.max_steps - done, 0) - horizon.max_steps)
    behind = max(horizon.max_steps - global_step - steps_left, 0)
    return horizon.moved(position.epoch + 1 + math.ceil(behind / per_epoch) - horizon.num_train_epochs)
