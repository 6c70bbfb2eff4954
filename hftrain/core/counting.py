"""What is counted while batches go by: tokens, floating point operations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hftrain.core.ports import EpochSource
from hftrain.core.timing import StepTimes
from hftrain.types.state import TrainerState

logger = logging.getLogger(__name__)


class ObservedSource:
    """An epoch source that shows each batch to observers when the loop draws it, so that nothing is read twice.

    Args:
        source: the batches.
        observers: called with each.
        times: is told how long each takes to come; None: nobody measures.
    """

    def __init__(
        self, source: EpochSource, observers: list[Callable[[Any], None]], times: StepTimes | None = None
    ) -> None:
        self._source = source
        self._observers = observers
        self._times = times

    def over(self, source: EpochSource) -> ObservedSource:
        """Return another source, shown to the same observers."""
        return ObservedSource(source, self._observers, self._times)

    @property
    def num_batches(self) -> int | None:
        """Batches of a whole epoch on this rank."""
        return self._source.num_batches

    @property
    def num_samples(self) -> int | None:
        """Samples of a whole epoch over all ranks."""
        return self._source.num_samples

    @property
    def global_batch_size(self) -> int | None:
        """Samples that all ranks together take per batch."""
        return self._source.global_batch_size

    @property
    def exact_length(self) -> bool:
        """Whether ``num_batches`` can be relied on."""
        return self._source.exact_length

    @property
    def deals_evenly(self) -> bool:
        """Whether all ranks are known to have equally many batches."""
        return self._source.deals_evenly

    def open(self, epoch: int, *, samples_done: int = 0, batches_done: int = 0) -> Iterator[Any]:
        """Start an epoch; batches that were consumed before are not observed again."""
        batches = self._source.open(epoch, samples_done=samples_done, batches_done=batches_done)
        if self._times is not None:
            batches = self._times.waited_for(batches)
        return self._observed(batches) if self._observers else batches

    def remaining(self, *, samples_done: int, batches_done: int) -> int | None:
        """Return how many batches are left."""
        return self._source.remaining(samples_done=samples_done, batches_done=batches_done)

    def order(self) -> dict[str, Any] | None:
        """Return where the order of the open epoch comes from."""
        return self._source.order()

    def place(self, *, is_inside: bool, num_ahead: int = 0) -> Any:
        """Return what this rank's checkpoint needs beyond position and order."""
        return self._source.place(is_inside=is_inside, num_ahead=num_ahead)

    def num_real(self, index: int) -> int | None:
        """Return how many samples of a batch count."""
        return self._source.num_real(index)

    def _observed(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            for observe in self._observers:
                observe(batch)
            yield batch


class TokenCounter:
    """Counts the elements of a model's main input, from shapes alone: no tensor is read.

    Args:
        input_name: the batch entry to count.
        state: its ``num_input_tokens_seen`` grows with each batch on one process, and with `settle` on several.
        reduce: sums a number over the processes; None for one process.

    Attributes:
        num_tokens: counted on this process.
    """

    def __init__(self, input_name: str, state: TrainerState, reduce: Callable[[float], float] | None = None) -> None:
        self.input_name = input_name
        self.num_tokens = 0
        self._state = state
        self._reduce = reduce
        self._settled = 0
        self._has_warned = False

    def __call__(self, batch: Any) -> None:
        """Count one batch."""
        entry = batch.get(self.input_name) if isinstance(batch, Mapping) else None
        numel = getattr(entry, "numel", None)
        if numel is None:
            self._warn()
            return
        self.num_tokens += numel()
        if self._reduce is None:
            self.settle()

    def settle(self) -> None:
        """Add to the state what was counted since the last call. All ranks must call this."""
        new = self.num_tokens - self._settled
        self._settled = self.num_tokens
        self._state.num_input_tokens_seen += new if self._reduce is None else round(self._reduce(new))

    def rewind(self, num_tokens: int) -> None:
        """Go back to an earlier count: the batches since then will be drawn again."""
        self.num_tokens = num_tokens
        if self._settled > num_tokens:
            self._state.num_input_tokens_seen -= self._settled - num_tokens
            self._settled = num_tokens

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Tokens are to be counted, and the batches have no tensor %r. Set main_input_name on the model's class "
                "to the batch entry that holds the tokens.",
                self.input_name,
            )
