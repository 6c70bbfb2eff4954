"""Iterable data sets: epochs, positions, and this rank's part of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from hftrain.data.dealing import Deal, Tail, length_of
from hftrain.data.reseeding import seeded_samples
from hftrain.data.streams import TurnFiller, Turns


def start_epoch(dataset: Any, *, epoch: int, seed: int) -> None:
    """Tell an iterable data set its epoch: ``set_epoch(epoch)``, else its ``generator`` is seeded with seed + epoch."""
    if callable(set_epoch := getattr(dataset, "set_epoch", None)):
        set_epoch(epoch)
    elif isinstance(generator := getattr(dataset, "generator", None), torch.Generator):
        generator.manual_seed(seed + epoch)


class Filler:
    """A sample that keeps the ranks in step and counts as none."""

    def __init__(self, sample: Any) -> None:
        self.sample = sample


class FillerBatch:
    """The batch made of a `Filler`."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class FillerCollate:
    """Passes a filler through ``collate_fn`` and marks what comes out."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, features: Any) -> Any:
        """Make a batch; the filler always stands alone in one."""
        if isinstance(features, Filler):
            return FillerBatch(self.collate_fn(features.sample))
        if isinstance(features, list) and features and isinstance(features[0], Filler):
            return FillerBatch(self.collate_fn([features[0].sample]))
        return self.collate_fn(features)


class IterableShard(IterableDataset[Any]):
    """This rank's samples of an iterable data set, epoch by epoch.

    Every rank reads the whole data set and keeps its share of each round (`Deal`), so the data set
    must give the same samples in the same order on all ranks: by ``set_epoch``, by an attribute
    ``generator``, or by not being random. Loader workers follow torch's convention: each iterates
    its own copy, and dividing the samples among workers (`torch.utils.data.get_worker_info`) is the
    data set's own affair; one that does not gives every sample once per worker.

    Args:
        dataset: the whole.
        deal: who gets what.
        seed: for the data set's ``generator``.
        persistent: workers outlive an epoch, so that the position must reach them through shared memory.
        gives_batches: the data set makes the batches, so that the units dealt and counted are batches.
        is_seeding: workers seed each sample, for training.
    """

    def __init__(
        self,
        dataset: IterableDataset[Any],
        *,
        deal: Deal,
        seed: int,
        persistent: bool = False,
        gives_batches: bool = False,
        is_seeding: bool = False,
    ) -> None:
        super().__init__()
        self.round_size = deal.round_size
        self.global_batch_size = None if gives_batches else deal.round_size
        self.dataset = dataset
        self.seed = seed
        self._deal = deal
        self._is_seeding = is_seeding
        self._state: Any = None
        self._turns: tuple[int, Turns] | None = None
        self._position = torch.zeros(2, dtype=torch.int64, device="cpu")
        if persistent:
            self._position.share_memory_()  # type: ignore[no-untyped-call]

    def set_position(self, epoch: int, samples_done: int = 0) -> None:
        """Start the next iteration in ``epoch``, behind ``samples_done`` units of all ranks together.

        With workers only the epoch can be set: how the samples are divided among them is not known here, and
        `load_turns` says what each of them skips.
        """
        self._position[0], self._position[1] = epoch, samples_done

    @property
    def is_stateful(self) -> bool:
        """Whether the data set says where it is, and can be told."""
        return all(callable(getattr(self.dataset, name, None)) for name in ("state_dict", "load_state_dict"))

    def state(self) -> Any:
        """Return where a data set with a state is now; None if it does not know yet."""
        return copy.deepcopy(self.dataset.state_dict())  # type: ignore[attr-defined]

    def load_state(self, state: Any) -> None:
        """Start the next iteration of this process from what `state` returned at its position; None: skip to it."""
        self._state = state

    def load_turns(self, epoch: int, turns: Turns | None) -> None:
        """Let workers that start now skip, in this epoch, what they gave before."""
        self._turns = None if turns is None else (epoch, turns)

    def remaining_after(self, samples_done: int) -> int | None:
        """Return this rank's number of rounds behind a position, in samples over all ranks; None when unknown."""
        return None if self.num_samples is None else self._deal.num_rounds(self.num_samples - samples_done)

    @property
    def num_samples(self) -> int | None:
        """Samples of an epoch over all ranks; None when that is unknown."""
        return length_of(self.dataset) if self.global_batch_size is not None else None

    def __len__(self) -> int:
        if (num_units := length_of(self.dataset)) is None:
            raise TypeError(f"{type(self.dataset).__name__} has no length")
        if self._deal.world_size == 1:
            return num_units
        full, rest = divmod(num_units, self.round_size)
        tail = self._deal.last(range(rest), range(min(num_units, self.round_size)))[0] if rest else []
        return full * self._deal.share + len(tail)

    def __iter__(self) -> Iterator[Any]:
        epoch, samples_done = self._position.tolist()
        start_epoch(self.dataset, epoch=epoch, seed=self.seed)
        worker, fillers = get_worker_info(), 0
        if worker is not None and self._turns is not None and self._turns[0] == epoch:
            turns = self._turns[1]
            samples_done = turns.batches[worker.id] * self.round_size
            fillers = turns.num_fillers(worker.id, per_batch=self._deal.share)
        state, self._state = self._state, None
        samples = iter(self.dataset)
        if self._is_seeding and worker is not None:
            samples = seeded_samples(samples, seed=self.seed, epoch=epoch)
        if state is None:
            # At once: what the data set draws from torch's default generator is drawn before a resume restores it.
            head = self._deal.skip(samples, samples_done) if samples_done else []
        else:
            head = self._deal.skip(samples, min(samples_done, self.round_size)) if self._deal.repeats else []
            self.dataset.load_state_dict(state)  # type: ignore[attr-defined]
            samples = iter(self.dataset)
        own = samples if self._deal.world_size == 1 else self._shares(samples, head)
        return chain((TurnFiller() for _ in range(fillers)), own) if fillers else own

    def _shares(self, samples: Iterator[Any], head: list[Any]) -> Iterator[Any]:
        for part, num_real in self._deal.parts(samples, head):
            if num_real == 0 and self._deal.tail is Tail.FILLER:
                yield Filler(part[0])
            else:
                yield from part
