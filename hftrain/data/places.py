"""What a resume needs, beyond the position, of a loader whose order is not looked up by seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
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
    """

    is_inside: bool
    rng: dict[str, Any] = field(default_factory=dict)
    generators: list[Tensor] = field(default_factory=list)
    generators_now: list[Tensor] = field(default_factory=list)

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
