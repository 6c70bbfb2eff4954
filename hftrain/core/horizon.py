"""How long a run is: epochs, optimizer steps, micro-batches and samples, computed once before it starts."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

from hftrain.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The extent of one training run.

    Attributes:
        num_train_epochs: epochs that are started, the last one perhaps cut short by `max_steps`.
        num_update_steps_per_epoch: optimizer steps of a whole epoch; a last partial accumulation window counts as one.
        max_steps: optimizer steps of the whole run.
        num_batches: micro-batches of a whole epoch on one rank; None when the data has no length.
        num_examples: samples of one epoch over all ranks; estimated from `max_steps` when the data has no length.
        num_train_samples: samples of the whole run over all ranks; a fraction where the epochs are one.
        epoch_based: True when `max_steps` was derived from the number of epochs.
        extra: where steps done before had another size: by how much the end is behind that of steps of one size, in
            steps when `epoch_based`, else in epochs; may be negative. None where no step had another.
    """

    num_train_epochs: int
    num_update_steps_per_epoch: int
    max_steps: int
    num_batches: int | None
    num_examples: int
    num_train_samples: float
    epoch_based: bool
    extra: int | None = None

    def moved(self, extra: int) -> Horizon:
        """Return the horizon with its end so many steps, or epochs, behind the present one."""
        if self.epoch_based:
            return replace(self, max_steps=self.max_steps + extra, extra=extra)
        return replace(self, num_train_epochs=self.num_train_epochs + extra, extra=extra)


def compute_horizon(
    *,
    num_batches: int | None,
    num_examples: int | None,
    num_train_epochs: float,
    max_steps: int,
    accumulation_steps: int,
    total_batch_size: int,
) -> Horizon:
    """Derive the horizon from the data's length and the arguments.

    Args:
        num_batches: micro-batches of an epoch on one rank, or None.
        num_examples: samples of an epoch over all ranks, or None.
        num_train_epochs: may be fractional: 1.5 trains half of the second epoch.
        max_steps: overrides the epochs when positive.
        accumulation_steps: micro-batches of one optimizer step.
        total_batch_size: samples of one optimizer step over all ranks.

    Raises:
        ConfigurationError: the data has no length and ``max_steps`` is not set.
    """
    if num_batches is None:
        if max_steps <= 0:
            raise ConfigurationError(
                f"max_steps={max_steps}, and the training data has no length (no __len__), so num_train_epochs="
                f"{num_train_epochs} cannot be turned into a number of steps. Set max_steps to a positive number."
            )
        return Horizon(
            num_train_epochs=sys.maxsize,
            num_update_steps_per_epoch=max_steps,
            max_steps=max_steps,
            num_batches=None,
            num_examples=total_batch_size * max_steps,
            num_train_samples=total_batch_size * max_steps,
            epoch_based=False,
        )
    per_epoch = max(math.ceil(num_batches / accumulation_steps), 1)
    examples = num_batches * total_batch_size // accumulation_steps if num_examples is None else num_examples
    if max_steps > 0:
        return Horizon(
            num_train_epochs=math.ceil(max_steps / per_epoch),
            num_update_steps_per_epoch=per_epoch,
            max_steps=max_steps,
            num_batches=num_batches,
            num_examples=examples,
            num_train_samples=max_steps * total_batch_size,
            epoch_based=False,
        )
    return Horizon(
        num_train_epochs=math.ceil(num_train_epochs),
        num_update_steps_per_epoch=per_epoch,
        max_steps=math.ceil(num_train_epochs * per_epoch),
        num_batches=num_batches,
        num_examples=examples,
        num_train_samples=examples * num_train_epochs,
        epoch_based=True,
    )
