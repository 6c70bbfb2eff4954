"""What the loop needs from the outside, as protocols: it receives objects and never builds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hftrain.types.choices import Event


class Engine(Protocol):
    """Devices, precision and collectives, as far as the loop uses them. Implemented by `hftrain.hardware.engine`."""

    device: torch.device
    world_size: int
    process_index: int

    def step(self, name: str) -> Callable[..., Any]:
        """Return the callable that runs the module's method ``name`` through wrapper and autocast."""

    def unwrapped_step(self, name: str) -> Callable[..., Any]:
        """Return the same without the strategy's wrapper, so that it needs no collective."""

    def full_eval(self, module: nn.Module) -> AbstractContextManager[None]:
        """Hold the module in the evaluation precision while the context is open."""

    def set_sync(self, enabled: bool) -> None:
        """Say whether the next backward averages gradients over the ranks."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of ``loss``."""

    def unscale(self) -> None:
        """Divide the gradients by fp16's loss scale, if there is one and it was not done yet. No host read."""

    def clip(self, max_norm: float) -> Tensor | None:
        """Clip the gradients and return their norm before, on the device."""

    def optimizer_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Step, and tell whether the weights moved (fp16 skips a step that overflowed)."""

    def zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop all gradients."""

    def to_device(self, batch: Any) -> Any:
        """Move the tensors of a nested batch."""

    def reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks. All ranks must call this."""

    def gather(self, tree: Any) -> Any:
        """Concatenate over the ranks along dimension 0, uneven sizes allowed. All ranks must call this."""

    def gather_object(self, obj: Any) -> list[Any]:
        """Collect one object per rank, in rank order. All ranks must call this."""

    def empty_cache(self) -> None:
        """Return unused device memory to the system."""


class Task(Protocol):
    """What is trained. `TaskModule` is one; the Trainer's adapter is the other."""

    @property
    def counts_items(self) -> bool:
        """Whether the loss is weighted by items, which are counted before a step's first backward."""

    def begin_step(self, num_batches: int, *, is_counted: bool = False) -> None:
        """Hear how many micro-batches the coming steps have, and whether items are counted. Called on a change."""

    def count_items(self, group: Sequence[Any]) -> Tensor | int | None:
        """Count what the loss is averaged over, in all micro-batches of one step on this rank."""

    def forward_backward(self, batch: Any, num_items: Tensor | None) -> Tensor:
        """Run forward and backward of one micro-batch; return its detached share of the step's loss."""


class EpochSource(Protocol):
    """Batches of one epoch after the other, from any position. Implemented by `hftrain.data.epochs`."""

    @property
    def num_batches(self) -> int | None:
        """Batches of a whole epoch on this rank; None when unknown."""

    @property
    def num_samples(self) -> int | None:
        """Samples of a whole epoch over all ranks; None when unknown."""

    @property
    def global_batch_size(self) -> int | None:
        """Samples that all ranks together take per batch; None when unknown."""

    @property
    def exact_length(self) -> bool:
        """Whether `num_batches` can be relied on, so that a window of batches need not be drawn ahead."""

    @property
    def deals_evenly(self) -> bool:
        """Whether all ranks are known to have equally many batches."""

    def open(self, epoch: int, *, samples_done: int = 0, batches_done: int = 0) -> Iterator[Any]:
        """Start epoch ``epoch`` behind what was consumed already."""

    def remaining(self, *, samples_done: int, batches_done: int) -> int | None:
        """Return how many batches are left on this rank behind a position; None when unknown."""

    def order(self) -> dict[str, Any] | None:
        """Return as JSON where the order of the open epoch comes from; None where seed and epoch say it."""

    def place(self, *, is_inside: bool, num_ahead: int = 0) -> Any:
        """Return what this rank's checkpoint needs beyond position and order; None where seed and epoch say it all."""

    def num_real(self, index: int) -> int | None:
        """Return how many samples of the open epoch's batch ``index`` count; None means all."""


class EventSink(Protocol):
    """Where the loop's events go. Implemented by `hftrain.callbacks.handler`."""

    def emit(self, event: Event, **extra: Any) -> None:
        """Tell every listener."""


class BatchFitter(Protocol):
    """Makes batches smaller when a step runs out of memory. Implemented by `hftrain.trainer.batch_size`."""

    def attempt(self, accumulate: Callable[[], bool]) -> bool | None:
        """Run a step's forwards and backwards and return what ``accumulate`` does; None if a rank ran out of memory.

        All ranks must call this.
        """

    def reopen(self, loop: Any) -> Iterator[Any]:
        """Give the `LoopRunner` smaller batches and return those left of its epoch. All ranks must call this."""


class RunActions(Protocol):
    """What the loop does when a flag asks for it; each is an overridable method of the Trainer."""

    def log(self, logs: dict[str, float]) -> None:
        """Log one row."""

    def evaluate(self, *, skip_scheduler: bool = False) -> None:
        """Evaluate, and let plateau scheduler and best metric know."""

    def save(self) -> None:
        """Save a checkpoint and tell the listeners once it is committed."""


class Scheduler(Protocol):
    """A learning rate schedule that moves once per optimizer step."""

    def step(self) -> None:
        """Move on by one step."""
