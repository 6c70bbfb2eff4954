"""Samplers that somebody else wrote: dealt to the ranks, and drawn again on a resume."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from hftrain.data.dealing import Deal, Tail, length_of
from hftrain.data.dispatch import Exchange
from hftrain.data.lengths import LengthGroupedSampler
from hftrain.data.reseeding import PlacedIndices, epoch_key
from hftrain.errors import DataError


class DealtSampler(Sampler[Any]):
    """This rank's part of a sampler or batch sampler that somebody else wrote.

    Every rank reads the whole sampler, so it must give the same on all of them. Its order comes from the generator it
    has, or from torch's default one. On one process it is read as it is; on several, all ranks take the order that
    rank 0 draws.

    Skipping reads indices and loads no data. A resume draws the epoch's order again, from what `order` returned.

    Args:
        source: gives indices (``batch_size`` set), or ready units that are dealt one at a time (None):
            the lists of a batch sampler, or the indices of a loader without batching.
        batch_size: samples per rank and batch.
        tail: what happens to a last round that is not full.
        seed: for ``is_seeded``.
        process_index: this rank.
        world_size: number of ranks.
        exchange: how ranks agree on an order; None: they draw alike.
        is_seeded: a source with ``generator=None`` gets one here, seeded with seed + epoch.
    """

    def __init__(
        self,
        source: Iterable[Any],
        *,
        batch_size: int | None,
        tail: Tail,
        seed: int,
        process_index: int = 0,
        world_size: int = 1,
        exchange: Exchange | None = None,
        is_seeded: bool = False,
    ) -> None:
        share = 1 if batch_size is None else batch_size
        self._deal = Deal(share=share, process_index=process_index, world_size=world_size, tail=tail)
        self.round_size = self._deal.round_size
        self.sampler = source
        self.batch_size = batch_size
        self.drop_last = tail is Tail.DROP
        self.seed = seed
        self.num_samples = length_of(source) if batch_size is not None else None
        self.global_batch_size = self.round_size if batch_size is not None else None
        self._exchange = exchange
        self._seeded = give_generator(source, seed) if is_seeded else None
        self._drawn: dict[str, Any] | None = None
        self._draw_again: dict[str, Any] | None = None
        self._epoch = 0
        self._samples_done = 0
        self._num_real: list[int] = []
        self._units: Iterator[Any] | None = None
        self._head: list[Any] = []

    def set_position(self, epoch: int, samples_done: int = 0) -> None:
        """Start the next iteration in ``epoch``, behind ``samples_done`` units of all ranks together."""
        self._epoch, self._samples_done = epoch, samples_done
        for sampler in _levels(self.sampler):
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(epoch)
        if self._seeded is not None:
            self._seeded.manual_seed(self.seed + epoch)

    def start(self) -> None:
        """Ask the source for its order now and skip what was consumed before; iteration does it otherwise.

        A source that draws from torch's default generator must do so before a resume restores it.
        """
        if self._units is None:
            units = self._ordered()
            self._head = self._deal.skip(units, self._samples_done)
            # Behind an epoch's last unit the source has ended, and may have drawn for that, as in `_one_behind`.
            ahead = list(islice(units, 1)) if self._samples_done else []
            self._units = chain(ahead, units)

    def order(self) -> dict[str, Any] | None:
        """Return as JSON where the order of the open epoch comes from; None where seed and epoch say it.

        ``drawn_from`` is the state of the generator before the order was drawn, ``by_own`` whether that was
        the source's own, ``generator`` the state now of the source's own, which no random state of a checkpoint holds,
        and ``group_size`` a `LengthGroupedSampler`'s.
        """
        if self._seeded is not None or self._drawn is None:
            return None
        own = _own_generator(self.sampler)
        return self._drawn if own is None else self._drawn | {"generator": _text(own.get_state())}

    def load_order(self, order: dict[str, Any], *, starts_epoch: bool) -> None:
        """Draw the next order from where `order` says: the open epoch's again, or the next one's."""
        own = _own_generator(self.sampler)
        if not starts_epoch:
            self._draw_again = order
        elif own is not None and "generator" in order:
            own.set_state(_state(order["generator"]))

    def remaining_after(self, samples_done: int) -> int | None:
        """Return this rank's number of batches behind a position, in samples over all ranks; None when unknown."""
        return None if self.num_samples is None else self._deal.num_rounds(self.num_samples - samples_done)

    def num_real(self, index: int) -> int:
        """Return how many samples of the batch ``index`` of the latest iteration count; 0 for a filler."""
        return self._num_real[index]

    def __len__(self) -> int:
        length = length_of(self.sampler)
        if length is None:
            raise TypeError(f"{type(self.sampler).__name__} has no length")
        return self._deal.num_rounds(length)

    def __iter__(self) -> Iterator[Any]:
        self._units = None
        self._num_real = []
        return self._batches() if self.batch_size is not None else self._ready_units()

    def _batches(self) -> Iterator[list[Any]]:
        position, key = self._samples_done + self._deal.low, epoch_key(self.seed, self._epoch)
        for part, num_real in self._parts():
            if isinstance(part[0], (list, tuple)):
                raise DataError(
                    f"{type(self.sampler).__name__} gives {part[0]!r} where an index is needed: it is a batch sampler. "
                    f"Return it as the batch_sampler of a DataLoader (get_train_dataloader), not as a sampler."
                )
            self._num_real.append(num_real)
            yield PlacedIndices(part, key=key, position=position)
            position += self.round_size

    def _ready_units(self) -> Iterator[Any]:
        number, key = self._samples_done + self._deal.low, epoch_key(self.seed, self._epoch)
        for part, num_real in self._parts():
            self._num_real.append(num_real and _size_of(part[0]))
            unit = part[0] if num_real else _first_of(part[0])
            yield PlacedIndices(unit, key=key, position=number << _UNIT) if type(unit) is list else unit
            number += self.round_size

    def _parts(self) -> Iterator[tuple[list[Any], int]]:
        self.start()
        assert self._units is not None
        return _one_behind(self._deal.parts(self._units, self._head))

    def _ordered(self) -> Iterator[Any]:
        """Read the source, its order drawn from where it should be; a source without end is read as it goes."""
        if self._seeded is not None:
            return iter(self.sampler)
        again, self._draw_again = self._draw_again, None
        source = self.sampler if again is None else self._as_then(again)
        own = _own_generator(source)
        generator = own if own is not None else torch.default_generator
        mine = generator.get_state()
        wanted = mine if again is None else _state(again["drawn_from"])
        if self._exchange is not None:
            wanted = self._exchange.broadcast_object(wanted)
        self._drawn = {"drawn_from": _text(wanted), "by_own": own is not None}
        if isinstance(source, LengthGroupedSampler):
            self._drawn["group_size"] = source.batch_size
        if wanted.equal(mine):
            return iter(source)
        if own is not None or length_of(source) is None:
            generator.set_state(wanted)
            return iter(source)
        # The default generator serves more than this order: it moves on as it would have without the others.
        list(source)
        after = generator.get_state()
        generator.set_state(wanted)
        units = list(source)
        generator.set_state(after)
        return iter(units)

    def _as_then(self, order: dict[str, Any]) -> Iterable[Any]:
        """Return the source as it was when it drew an order; another run's may have differed.

        Grouped for other batches, or drawn from a generator of another kind, it would give another order, in which
        samples repeat or are left out.
        """
        source, own = self.sampler, _own_generator(self.sampler)
        if isinstance(source, LengthGroupedSampler):
            source = source.regrouped(order.get("group_size", source.batch_size))
        was_own = order.get("by_own", "generator" in order)
        if was_own == (own is not None):
            return source
        drawing: Iterable[Any] = _drawing_from(source, torch.Generator(device="cpu") if was_own else None)
        return drawing


def _one_behind(parts: Iterator[Any]) -> Iterator[Any]:
    """Pass on, one part late: a source has then ended when its last part is used.

    Torch's `RandomSampler` draws once more from its generator at its end, which decides on the next epoch's order.
    """
    part = next(parts, _END)
    while part is not _END:
        following = next(parts, _END)
        yield part
        part = following


_END = object()
_UNIT = 24
"""Bits for the samples of a batch whose size is not known beforehand."""


def _levels(source: Any) -> Iterator[Any]:
    """Yield a sampler and, for a batch sampler, the one inside."""
    yield source
    if (inner := getattr(source, "sampler", None)) is not None:
        yield inner


def _own_generator(source: Any) -> torch.Generator | None:
    owned = (getattr(sampler, "generator", None) for sampler in _levels(source))
    return next((generator for generator in owned if isinstance(generator, torch.Generator)), None)


def _drawing_from(source: Any, generator: torch.Generator | None) -> Any:
    """Return a copy of a sampler that draws from another generator; one without the attribute as it is."""
    if hasattr(source, "generator"):
        source = copy.copy(source)
        source.generator = generator
    elif hasattr(getattr(source, "sampler", None), "generator"):
        source = copy.copy(source)
        source.sampler = _drawing_from(source.sampler, generator)
    return source


def give_generator(source: Any, seed: int) -> torch.Generator | None:
    """Give a sampler that has ``generator=None`` one of its own and return it; None if it has no such attribute."""
    for sampler in _levels(source):
        if getattr(sampler, "generator", sampler) is None:
            generator = torch.Generator(device="cpu")
            generator.manual_seed(seed)
            sampler.generator = generator
            return generator
    return None


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _state(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _size_of(unit: Any) -> int:
    return len(unit) if isinstance(unit, (list, tuple)) else 1


def _first_of(unit: Any) -> Any:
    return list(unit[:1]) if isinstance(unit, (list, tuple)) else unit
