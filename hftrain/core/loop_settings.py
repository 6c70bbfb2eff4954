"""What the loop needs of the arguments."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop needs of the arguments, resolved once.

    Attributes:
        accumulation_steps: micro-batches of one optimizer step.
        max_grad_norm: gradients are clipped to this norm; 0 or less switches it off.
        sync_each_batch: average gradients over the ranks after every micro-batch, not only after the last.
        eval_on_start: evaluate before the first step.
        empty_cache_steps: release cached device memory every so many steps; None never.
        filter_nonfinite_losses: leave NaN and infinite losses out of the logged average.
        loss_decimals: a row's loss is rounded to so many; None leaves it exact.
    """

    accumulation_steps: int = 1
    max_grad_norm: float = 0.0
    sync_each_batch: bool = False
    eval_on_start: bool = False
    empty_cache_steps: int | None = None
    filter_nonfinite_losses: bool = True
    loss_decimals: int | None = None
