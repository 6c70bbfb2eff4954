"""``TrainingArguments``: every argument of a run, checked and ready to be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hftrain.args.availability import REFUSED, refusals
from hftrain.args.conversion import UnfitError, converted, converters
from hftrain.args.deprecation import apply_old_spellings, warn_of
from hftrain.args.derivation import derived
from hftrain.args.environment import DerivedProperties
from hftrain.args.extensions import ExtensionArguments
from hftrain.args.optimization import OptimizationArguments
from hftrain.args.reporting import ReportingArguments
from hftrain.args.rules import problems
from hftrain.args.running import RunningArguments
from hftrain.args.setters import Setters
from hftrain.args.stored import StoredForms
from hftrain.errors import ConfigurationError


@dataclass(kw_only=True, repr=False)
class TrainingArguments(
    StoredForms,
    Setters,
    DerivedProperties,
    ExtensionArguments,
    ReportingArguments,
    OptimizationArguments,
    RunningArguments,
):
    """All arguments of a run, named as in ``transformers`` 4.53.1; only ``output_dir`` is positional.

    On construction every value becomes the type its argument is declared with, old spellings act, what follows from
    other arguments is filled in, and all problems are raised together. No device is touched and no folder created.

    Arguments may be changed afterwards. ``validate`` then does all of this again, and ``train`` calls it: what was
    filled in follows the change, what was given stays.

    A subclass that is a dataclass may add fields and extend ``__post_init__``.

    Raises:
        ConfigurationError: something is wrong with the arguments; lists every problem.
        HardwareError: the launcher's environment variables contradict each other.
    """

    # A subclass adds the names of its own fields that take a dict, or JSON text for one.
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        "accelerator_config",
        "fsdp_config",
        "deepspeed",
        "gradient_checkpointing_kwargs",
        "lr_scheduler_kwargs",
    ]

    def __post_init__(self) -> None:
        """Check the arguments; a subclass that extends this calls it."""
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an argument, and remember that it was given rather than filled in."""
        object.__setattr__(self, name, value)
        self.__dict__.get("_filled_in", {}).pop(name, None)

    def validate(self) -> None:
        """Read the types, let old spellings act, fill in what follows, and check every rule.

        Raises:
            ConfigurationError: lists every problem.
        """
        self._forget_what_was_filled_in()
        names = tuple(converters(type(self)))
        found, wrong = self._unusable(names)
        acted: dict[str, Any] = self.__dict__.setdefault("_acted", {})
        old = list(apply_old_spellings(self, acted=acted, except_for=wrong))
        self._fill_in()
        _raise_all(found + list(problems(self, except_for=wrong)))
        for name, spelling in old:
            warn_of(name, spelling)

    def assign(self, **values: Any) -> Self:
        """Set several arguments, or none when one of them has the wrong type or is not available.

        Raises:
            ConfigurationError: lists every problem.
        """
        before = {name: getattr(self, name) for name in values}
        self.__dict__ |= values
        found, _ = self._unusable(tuple(values))
        after = {name: getattr(self, name) for name in values}
        self.__dict__ |= before
        _raise_all(found)
        for name, value in after.items():
            setattr(self, name, value)
        return self

    def _unusable(self, names: tuple[str, ...]) -> tuple[list[str], set[str]]:
        """Read the types of the named arguments; what is wrong or refused, and the names that no rule can look at."""
        wrong = dict(self._read_types(names))
        refused = list(refusals(self, [name for name in names if name not in wrong or name in REFUSED]))
        unusable = {name for name, _ in refused if name in REFUSED}
        found = [text for name, text in wrong.items() if name not in unusable] + [text for _, text in refused]
        return found, unusable | wrong.keys()

    def _read_types(self, names: Iterable[str]) -> Iterable[tuple[str, str]]:
        for name in names:
            try:
                self.__dict__[name] = converted(type(self), name, getattr(self, name))
            except UnfitError as unfit:
                yield name, str(unfit)

    def _forget_what_was_filled_in(self) -> None:
        self.__dict__ |= self.__dict__.get("_filled_in", {})
        self.__dict__["_filled_in"] = {}

    def _fill_in(self) -> None:
        for name, value in derived(self):
            self.__dict__["_filled_in"][name] = getattr(self, name)
            self.__dict__[name] = value


def _raise_all(found: list[str]) -> None:
    if len(found) == 1:
        raise ConfigurationError(found[0])
    if found:
        listed = "".join(f"\n- {text}" for text in found)
        raise ConfigurationError(f"{len(found)} problems with the arguments:{listed}")
