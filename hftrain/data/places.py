"""What a resume needs, beyond the position, of a loader whose order is not looked up by seed and epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from hftrain.hardware.seeding import rng_state, set_rng_state

_OF_THE_PROCESS = ("python", "numpy", "torch")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one process was in the epochs of a loader.

    Attributes:
        is_inside: an epoch is open; else the next one is still to begin.
        rng: the states of the process's generators when the open epoch began, as `rng_state` gives them.
        generators: the same of the generators that loader and samplers hold.
        generators_now: their states now.
        stream: what `EpochStates` says of an iterable data set that has a state of its own; else None.
    """

    is_inside: bool
    rng: dict[str, Any] = field(default_factory=dict)
    generators: list[Tensor] = field(default_factory=list)
    generators_now: list[Tensor] = field(default_factory=list)
    stream: dict[str, Any] | None = None

    def to_tree(self) -> dict[str, Any]:
        """Return the fields as plain data and tensors."""
        return asdict(self)


@dataclass(frozen=True)
class EpochStart:
    """The random states from which an epoch's order and its batches are drawn."""

    rng: dict[str, Any]
    generators: list[Tensor]

    @classmethod
    def now(cls, loader: Any) -> EpochStart:
        """Return the states of the process and of the loader's own generators."""
        state = rng_state()
        return cls({name: state[name] for name in _OF_THE_PROCESS}, generators_of(loader))

    def put_back(self, loader: Any) -> None:
        """Set the generators of the process and of the loader."""
        set_rng_state(self.rng)
        set_generators(loader, self.generators)


class EpochStates:
    """The states of an iterable data set behind the last batches of an open epoch.

    Args:
        take: returns the state now.
        samples: consumed in the epoch before, over all ranks.
        batches: the same on this rank.
        per_batch: samples of a batch over all ranks; 0 where batches are counted alone.
        num_kept: how many batches may be drawn before they are consumed.
    """

    def __init__(self, take: Callable[[], Any], *, samples: int, batches: int, per_batch: int, num_kept: int) -> None:
        self._take = take
        self._samples, self._batches, self._per_batch = samples, batches, per_batch
        self._kept = deque([take()], maxlen=num_kept + 1)

    def followed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass batches on."""
        for batch in batches:
            self._batches += 1
            self._samples += self._per_batch
            self._kept.append(self._take())
            yield batch

    def behind(self, num_ahead: int) -> dict[str, Any] | None:
        """Return the state behind all but the last ``num_ahead`` batches, and which place that is; None if not kept."""
        if num_ahead >= len(self._kept) or (state := self._kept[-1 - num_ahead]) is None:
            return None
        batches, samples = self._batches - num_ahead, self._samples - num_ahead * self._per_batch
        return {"state": state, "batches": batches, "samples": samples}


def state_at(place: Place | None, *, samples: int, batches: int) -> Any:
    """Return the data set's state of a place if it is the place behind so many samples and batches; else None."""
    stream = None if place is None else place.stream
    is_there = isinstance(stream, dict) and (stream.get("samples"), stream.get("batches")) == (samples, batches)
    return stream.get("state") if stream is not None and is_there else None


def generators_of(loader: Any) -> list[Tensor]:
    """Return the states of the generators that a loader and its samplers hold."""
    return [generator.get_state() for generator in _generators(loader)]


def set_generators(loader: Any, states: list[Tensor]) -> None:
    """Set what `generators_of` returned; where the loader has others now they stay as they are."""
    own = list(_generators(loader))
    if len(own) == len(states):
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)


def _generators(loader: Any) -> Iterator[torch.Generator]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = {id(own): own for part in parts if isinstance(own := getattr(part, "generator", None), torch.Generator)}
    yield from found.values()
