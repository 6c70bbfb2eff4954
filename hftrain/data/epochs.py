"""The epochs the loop reads: any loader, from any position."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from hftrain.data.dealing import length_of
from hftrain.data.dealt import DealtSampler
from hftrain.data.dispatch import DispatchingLoader
from hftrain.data.iterables import FillerBatch, FillerCollate, IterableShard, start_epoch
from hftrain.data.places import EpochStart, EpochStates, Place, generators_of, set_generators, state_at
from hftrain.data.samplers import EpochBatchSampler, EvalBatchSampler
from hftrain.data.streams import EpochTurns, StreamLoader, Turns, turns_at
from hftrain.data.workers import keep_workers_from_signals
from hftrain.errors import DataError

logger = logging.getLogger(__name__)

LONG_SKIP_S = 1.0

Dealer = EpochBatchSampler | EvalBatchSampler | DealtSampler | IterableShard


def dealer_of(loader: object) -> Dealer | None:
    """Return what of ours deals a loader's samples; None for a loader that somebody else made."""
    for name in ("batch_sampler", "sampler", "dataset"):
        part = getattr(loader, name, None)
        if isinstance(part, (EpochBatchSampler, EvalBatchSampler, DealtSampler, IterableShard)):
            return part
    return None


class EpochLoader:
    """Batches of one epoch after the other, from any position, out of any loader.

    Args:
        loader: a DataLoader, or any iterable of batches.
        seed: for the ``generator`` of an iterable data set in a loader that a user made.
        is_training: remember what a resume needs, for `place`.
        batches_per_step: so many batches may be drawn before they are consumed.

    Attributes:
        num_batches: of a whole epoch on this rank; None when the loader has no length.
        num_samples: of a whole epoch over all ranks; None when unknown.
        global_batch_size: samples that all ranks together take per batch; None when unknown.
        exact_length: whether ``num_batches`` can be relied on: the sampler is ours.
        deals_evenly: whether all ranks are known to have equally many batches: we deal them.
        remembers: whether a resume needs more than position and order: `place` gives it.
        starts_anywhere: whether `open` can start behind any number of samples, not only behind whole batches.
    """

    def __init__(
        self, loader: Iterable[Any], *, seed: int = 0, is_training: bool = True, batches_per_step: int = 1
    ) -> None:
        self.loader = loader
        keep_workers_from_signals(loader)
        self.seed = seed
        self._dealer = dealer_of(loader)
        self._dispatcher = loader if isinstance(loader, DispatchingLoader) else None
        self._spread = 1 if self._dispatcher is None else self._dispatcher.spread
        self.num_batches = length_of(loader)
        self.num_samples = num_samples_of(loader)
        self.global_batch_size = _global_batch_size(loader, self._dealer, self._spread)
        self.exact_length = isinstance(self._dealer, EpochBatchSampler)
        self.deals_evenly = self._dealer is not None or self._dispatcher is not None
        self.starts_anywhere = self._dealer is not None and self._dealer.global_batch_size is not None
        if isinstance(self._dealer, IterableShard):
            self.starts_anywhere &= getattr(loader, "num_workers", 0) == 0
        self._order: dict[str, Any] | None = None
        self._place: Place | None = None
        self._start: EpochStart | None = None
        self._batches_per_step = batches_per_step
        self._states: EpochStates | EpochTurns | None = None
        self.remembers = is_training and not isinstance(self._dealer, EpochBatchSampler)
        self._fillers: set[int] = set()
        self._has_given = self._was_opened = False

    def open(self, epoch: int, *, samples_done: int = 0, batches_done: int = 0) -> Iterator[Any]:
        """Start ``epoch`` behind what was consumed already; return the iterator over the remaining batches.

        Tells loader, samplers and data set the epoch. Our samplers look up the position
        (``samples_done``, over all ranks) and load nothing; other loaders load and drop ``batches_done``
        batches of this rank before this returns, and the log says how long that took.

        Draws from torch's default generator what torch's DataLoader draws, once per epoch, and goes back to the
        epoch's start where `load_place` knows it and the order may come from there. So restore random states after
        this call.

        Raises:
            DataError: there are fewer batches than were done, or an epoch without length has none at all.
        """
        self._fillers.clear()
        place, self._place = self._place, None
        is_inside = bool(samples_done or batches_done) or (place is not None and place.is_inside)
        self._set_order(starts_epoch=not is_inside)
        to_drop = self._set_position(epoch, samples_done, batches_done)
        if self._dealer is None and to_drop == self.num_batches and place is not None:
            set_generators(self.loader, place.generators_now)
            return iter(())
        self._begin(place, is_inside=is_inside)
        turns = self._turns(place, epoch, samples_done, batches_done)
        to_drop = 0 if turns is not None else to_drop
        iterator = self._streamed(place, turns, epoch, samples_done, batches_done)
        if isinstance(self._dealer, DealtSampler) and (is_inside or self._dispatcher is None):
            # Now, so that a step which is drawn again from its beginning does not draw the order with it.
            self._dealer.start()
        if to_drop:
            _drop_batches(iterator, to_drop)
        if isinstance(getattr(self.loader, "collate_fn", None), FillerCollate):
            iterator = self._unmarked(iterator)
        if samples_done or batches_done:
            self._has_given = True
        elif self.num_batches is None:
            iterator = self._not_empty(iterator)
        return iterator

    def remaining(self, *, samples_done: int, batches_done: int) -> int | None:
        """Return how many batches of an epoch are left on this rank behind a position; None when unknown.

        Where samples are counted they decide: the position may come from a run with other batches.
        """
        if self.num_batches is None:
            return None
        left = None
        if self.starts_anywhere and isinstance(self._dealer, (EpochBatchSampler, DealtSampler, IterableShard)):
            left = self._dealer.remaining_after(samples_done)
        if left is None:
            return self.num_batches - batches_done
        return left if self._dispatcher is None else self._dispatcher.rounds_of(left)

    def num_real(self, index: int) -> int | None:
        """Return how many samples of batch ``index`` of the open epoch count; None means all. 0 is a filler's."""
        if self._dispatcher is not None:
            return self._dispatcher.num_real(index)
        if isinstance(self._dealer, (EvalBatchSampler, DealtSampler)):
            return self._dealer.num_real(index)
        return 0 if index in self._fillers else None

    def order(self) -> dict[str, Any] | None:
        """Return as JSON where the order of the open epoch comes from; None where seed and epoch say it."""
        return self._dealer.order() if isinstance(self._dealer, DealtSampler) else None

    def load_order(self, order: dict[str, Any] | None) -> None:
        """Take the order of the next `open` from what `order` returned in the run that was interrupted."""
        self._order = order

    def place(self, *, is_inside: bool, num_ahead: int = 0) -> Place | None:
        """Return what this rank's checkpoint needs beyond position and order; None where seed and epoch say it all.

        Args:
            is_inside: the epoch opened last is not over.
            num_ahead: so many batches of it were drawn and are not consumed.
        """
        if self._start is None:
            return None
        start = self._start if is_inside else EpochStart({}, [])
        return Place(
            is_inside=is_inside,
            rng=start.rng,
            generators=start.generators,
            generators_now=generators_of(self.loader),
            stream=self._states.behind(num_ahead) if self._states is not None and is_inside else None,
        )

    def load_place(self, place: Place | None) -> None:
        """Take what the next `open` needs from what `place` returned in the run that was interrupted."""
        self._place = place

    def _begin(self, place: Place | None, *, is_inside: bool) -> None:
        """Bring the random generators to where the epoch begins, and remember where that is."""
        if not self.remembers:
            return
        if place is not None and is_inside and place.rng:
            EpochStart(place.rng, place.generators).put_back(self.loader)
        elif place is not None and not is_inside:
            set_generators(self.loader, place.generators_now)
        self._start = EpochStart.now(self.loader)

    def _turns(self, place: Place | None, epoch: int, samples_done: int, batches_done: int) -> Turns | None:
        """Tell the workers of an iterable data set what to skip; None if they are to skip nothing."""
        if not isinstance(self.loader, StreamLoader) or not isinstance(self._dealer, IterableShard):
            return None
        num_workers, turns = self.loader.num_workers, None
        if (samples_done or batches_done) and not self._was_opened:  # else persistent workers do not hear of it
            turns = turns_at(place, samples=samples_done, batches=batches_done, num_workers=num_workers)
        self._dealer.load_turns(epoch, turns)
        return turns

    def _by_turns(self, turns: Turns | None, epoch: int, samples_done: int, batches_done: int) -> Iterator[Any]:
        assert isinstance(self.loader, StreamLoader)  # the caller checks
        begin = time.monotonic()
        iterator = self._iterate(epoch)
        if turns is not None:
            # Waited for here, where a signal stops the run at once; workers draw nothing from this process.
            iterator = chain(list(islice(iterator, 1)), iterator)
            _log_stream(self._dealer, has_state=False, seconds=time.monotonic() - begin)
        per_batch = self.global_batch_size or 0
        if turns is None:
            samples_done = batches_done = 0  # what is dropped is drawn from here
        self._states = EpochTurns(self.loader, turns, samples=samples_done, batches=batches_done, per_batch=per_batch)
        return self._states.followed(iterator)

    def _streamed(
        self, place: Place | None, turns: Turns | None, epoch: int, samples_done: int, batches_done: int
    ) -> Iterator[Any]:
        """Iterate over the loader; an iterable data set with a state of its own goes on from it."""
        if isinstance(self.loader, StreamLoader):
            return self._by_turns(turns, epoch, samples_done, batches_done)
        shard, num_workers = self._dealer, getattr(self.loader, "num_workers", 0)
        if not isinstance(shard, IterableShard) or num_workers or not self.remembers:
            return self._iterate(epoch)
        state = state_at(place, samples=samples_done, batches=batches_done) if shard.is_stateful else None
        shard.load_state(state)
        begin = time.monotonic()
        iterator = self._iterate(epoch)
        if samples_done or batches_done:
            _log_stream(shard, has_state=state is not None, seconds=time.monotonic() - begin)
        if not shard.is_stateful:
            return iterator
        self._states = EpochStates(
            shard.state,
            samples=samples_done,
            batches=batches_done,
            per_batch=self.global_batch_size or 0,
            num_kept=self._batches_per_step,
        )
        return self._states.followed(iterator)

    def _iterate(self, epoch: int) -> Iterator[Any]:
        """Iterate over the loader, drawing what a process draws that did so in the epochs before."""
        is_first, self._was_opened = not self._was_opened, True
        if not (is_first and epoch and isinstance(self.loader, DataLoader) and self.loader.persistent_workers):
            return iter(self.loader)
        # Their workers were started in the first epoch. Starting them draws a seed, which this epoch did not draw.
        own, self.loader.generator = self.loader.generator, torch.Generator(device="cpu")
        try:
            return iter(self.loader)
        finally:
            self.loader.generator = own

    def _set_order(self, *, starts_epoch: bool) -> None:
        order, self._order = self._order, None
        if order is not None and isinstance(self._dealer, DealtSampler):
            self._dealer.load_order(order, starts_epoch=starts_epoch)

    def _set_position(self, epoch: int, samples_done: int, batches_done: int) -> int:
        """Set what can be set, and return how many batches are left to drop."""
        dealer, dataset = self._dealer, getattr(self.loader, "dataset", None)
        num_workers: int = getattr(self.loader, "num_workers", 0)
        if isinstance(dealer, EvalBatchSampler):
            # Evaluation has no epochs, and its data set may be the one that training is in the middle of.
            return batches_done
        if isinstance(dataset, IterableDataset) and dataset is not dealer:
            start_epoch(dataset, epoch=epoch, seed=self.seed)
        for part in _parts_with_epoch(self.loader):
            part.set_epoch(epoch)
        if dealer is None:
            return batches_done
        if isinstance(dealer, IterableShard) and num_workers > 0:
            dealer.set_position(epoch)
            return batches_done or samples_done // (self.global_batch_size or 1)
        by_batch = dealer.global_batch_size is None
        dealer.set_position(epoch, batches_done * dealer.round_size * self._spread if by_batch else samples_done)
        return 0

    def _not_empty(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """Pass on an epoch whose length is not known; refuse one that ends at once, unless there were batches before.

        A generator that is used up ends a run that trained on it.
        """
        first = next(iterator, _END)
        if first is _END:
            if self._has_given:
                return
            raise DataError(
                "The loader gave no batch in a whole epoch: its data set is empty, or used up if it was a generator."
            )
        self._has_given = True
        yield first
        yield from iterator

    def _unmarked(self, iterator: Iterator[Any]) -> Iterator[Any]:
        for index, batch in enumerate(iterator):
            if isinstance(batch, FillerBatch):
                self._fillers.add(index)
                yield batch.batch
            else:
                yield batch


def _log_stream(shard: Any, *, has_state: bool, seconds: float) -> None:
    name = type(shard.dataset).__name__
    if has_state:
        logger.info("%s goes on from its own state, loaded in %.1f s.", name, seconds)
        return
    level = logging.WARNING if seconds > LONG_SKIP_S else logging.INFO
    logger.log(
        level,
        "Read and dropped samples of %s for %.1f s to go on where the run was. With state_dict and load_state_dict it "
        "could start there.",
        name,
        seconds,
    )


def num_samples_of(loader: object) -> int | None:
    """Return the samples of an epoch over all ranks; None when unknown."""
    dealer = dealer_of(loader)
    return dealer.num_samples if dealer is not None else length_of(getattr(loader, "dataset", None))


def _global_batch_size(loader: object, dealer: Dealer | None, spread: int) -> int | None:
    if dealer is not None:
        return None if dealer.global_batch_size is None else dealer.global_batch_size * spread
    batch_size = getattr(loader, "batch_size", None)
    num_ranks = getattr(getattr(loader, "sampler", None), "num_replicas", spread)
    return batch_size * num_ranks if isinstance(batch_size, int) else None


def _parts_with_epoch(loader: object) -> list[Any]:
    """Return loader, samplers and data set as far as they want to know the epoch, each once."""
    batch_sampler, sampler = getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)
    inner = batch_sampler.sampler if isinstance(batch_sampler, BatchSampler) else None
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset):
        dataset = None  # told by `start_epoch`
    candidates = {id(part): part for part in (loader, batch_sampler, sampler, inner, dataset)}
    return [part for part in candidates.values() if callable(getattr(part, "set_epoch", None))]


def _drop_batches(iterator: Iterator[Any], num_batches: int) -> None:
    """Load and drop batches, and log what that took."""
    begin = time.monotonic()
    for dropped in range(num_batches):
        if next(iterator, _END) is _END:
            raise DataError(
                f"The position to go on from is behind {num_batches} batches, and the loader gives {dropped}. "
                f"Give the data of the run that was interrupted, or set ignore_data_skip=True."
            )
    seconds = time.monotonic() - begin
    level = logging.WARNING if seconds > LONG_SKIP_S else logging.INFO
    logger.log(
        level,
        "Loaded and dropped %d batches in %.1f s to go on where the run was: this loader cannot start in the middle. "
        "A map-style data set without a loader of its own can.",
        num_batches,
        seconds,
    )


_END = object()
