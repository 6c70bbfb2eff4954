"""A search space said in plain words, for any backend: what may be chosen for each argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Uniform:
    """A number between two others; with ``log``, its logarithm is uniform.

    Raises:
        ValueError: there is nothing between them, or the logarithm of one does not exist.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"{self} is empty: low must be below high.")
        if self.log and self.low <= 0:
            raise ValueError(f"{self} has no logarithm at {self.low}: low must be above 0, or log=False.")


@dataclass(frozen=True)
class Integers:
    """A whole number from low to high, both included.

    Raises:
        ValueError: there is none.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"{self} is empty: low must not be above high.")


@dataclass(frozen=True)
class Choice:
    """One of some values; nothing is said of their order.

    Raises:
        ValueError: there are none.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a choice of no values is empty: give at least one.")


Distribution = Uniform | Integers | Choice
Space = Mapping[str, Distribution]
"""Argument -> what may be chosen for it. A key ``task.x`` is for the constructor of the TaskModule."""


def uniform(low: float, high: float) -> Uniform:
    """Any number from low to high."""
    return Uniform(low, high)


def loguniform(low: float, high: float) -> Uniform:
    """Any number from low to high, each order of magnitude as likely as another."""
    return Uniform(low, high, log=True)


def integers(low: int, high: int) -> Integers:
    """Any whole number from low to high, both included."""
    return Integers(low, high)


_WORDS: Mapping[str, Callable[..., Distribution]] = {"uniform": uniform, "loguniform": loguniform, "int": integers}


def space_of(document: Mapping[str, Any]) -> dict[str, Distribution]:
    """Read a space: distributions as they are, a list as a choice, and ``{loguniform: [1e-5, 1e-2]}`` as YAML has it.

    Raises:
        ValueError: one entry is none of these; names it, and says what there is.
    """
    return {name: _distribution(name, value) for name, value in document.items()}


def _distribution(name: str, value: Any) -> Distribution:
    if isinstance(value, Uniform | Integers | Choice):
        return value
    try:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return Choice(tuple(value))
        if isinstance(value, Mapping) and len(value) == 1:
            ((word, bounds),) = value.items()
            return _WORDS[word](*map(_number, bounds))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: {value!r} is no distribution: {error}. {_HOW}") from error
    raise ValueError(f"{name}: {value!r} is no distribution. {_HOW}")


def _number(value: Any) -> Any:
    """YAML reads ``1e-5`` as a text."""
    return float(value) if isinstance(value, str) else value


_HOW = "Write a list to choose from, or {uniform: [low, high]}, {loguniform: [low, high]} or {int: [low, high]}."
