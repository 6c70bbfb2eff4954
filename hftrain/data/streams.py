"""Iterable data sets read by workers: which worker gave which batch, so that a resume skips inside each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import DataLoader, get_worker_info

if TYPE_CHECKING:
    from hftrain.data.places import Place


class FromWorker(NamedTuple):
    """A batch and the worker that made it. A tuple, so that torch pins the memory of what is in it."""

    batch: Any
    worker: int
    is_filler: bool


class TurnFiller:
    """What a worker gives, in place of samples, when a resume begins with a later worker's turn."""


class FromWorkerCollate:
    """Says which worker made a batch.

    Args:
        collate_fn: makes it.
    """

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, features: Any) -> Any:
        """Make a batch; in the process that trains it stays as it is."""
        worker = get_worker_info()
        if worker is None:
            return self.collate_fn(features)
        if isinstance(features, TurnFiller) or (features and isinstance(features[0], TurnFiller)):
            return FromWorker(None, worker.id, True)
        return FromWorker(self.collate_fn(features), worker.id, False)


class StreamLoader(DataLoader[Any]):
    """A DataLoader over an iterable data set that remembers whose turn it was.

    Attributes:
        given: the worker of each batch of the latest iteration.
    """

    given: list[int]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.given = []
        return self._batches(super().__iter__(), self.given)

    def _batches(self, items: Iterator[FromWorker], given: list[int]) -> Iterator[Any]:
        for item in items:
            if not item.is_filler:
                given.append(item.worker)
                yield item.batch


class Turns(NamedTuple):
    """How many batches of an epoch each worker gave, and which one gave the last."""

    batches: list[int]
    last: int

    def num_fillers(self, worker: int, *, per_batch: int) -> int:
        """Return how many fillers a worker gives first: torch asks the workers in turn, from the first one on."""
        is_behind = worker <= self.last < len(self.batches) - 1
        return per_batch if is_behind else 0


class EpochTurns:
    """The turns of the workers in an open epoch.

    Args:
        loader: whose batches are followed.
        begun: the turns that the workers of now were told of; None: they begin with the epoch.
        samples, batches, per_batch: as of `EpochStates`.
    """

    def __init__(
        self, loader: StreamLoader, begun: Turns | None, *, samples: int, batches: int, per_batch: int
    ) -> None:
        self._loader = loader
        self._begun = begun or Turns([0] * loader.num_workers, loader.num_workers - 1)
        self._samples, self._batches, self._per_batch = samples, batches, per_batch
        self._num_drawn = 0

    def followed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass batches on."""
        for batch in batches:
            self._num_drawn += 1
            yield batch

    def behind(self, num_ahead: int) -> dict[str, Any] | None:
        """Return the turns behind all but the last ``num_ahead`` batches, and which place that is."""
        num_done = self._num_drawn - num_ahead
        given, counts = self._loader.given[:num_done], list(self._begun.batches)
        for worker in given:
            counts[worker] += 1
        return {
            "turns": counts,
            "last": given[-1] if given else self._begun.last,
            "batches": self._batches + num_done,
            "samples": self._samples + num_done * self._per_batch,
        }


def turns_at(place: Place | None, *, samples: int, batches: int, num_workers: int) -> Turns | None:
    """Return the turns of a place if it is the one behind so many samples and batches, of as many workers."""
    stream = None if place is None else place.stream
    if not isinstance(stream, dict) or (stream.get("samples"), stream.get("batches")) != (samples, batches):
        return None
    turns, last = stream.get("turns"), stream.get("last")
    if (
        not isinstance(turns, list)
        or len(turns) != num_workers
        or not all(type(count) is int and count >= 0 for count in turns)
    ):
        return None
    return Turns(turns, last) if type(last) is int and 0 <= last < num_workers else None
