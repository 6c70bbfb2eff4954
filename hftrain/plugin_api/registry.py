"""Plugins by name: found in the metadata of what is installed, and imported when somebody names them.

A distribution registers its plugins as entry points, in a group for each kind::

    [project.entry-points."hftrain.trackers"]
    csv = "my_package.csv_tracker:CsvTracker"

Nothing is scanned before a plugin is named, and then once in a process; only what is named is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from packaging.utils import canonicalize_name

from hftrain.errors import (
    PluginBrokenError,
    PluginCollisionError,
    PluginError,
    PluginIncompatibleError,
    PluginNotFoundError,
    PluginUnavailableError,
)
from hftrain.plugin_api.requirements import Lack, lacks

API = 1
"""The version of this interface. A plugin's class says which one it was written for, in ``api``."""

OWN_DISTRIBUTION = "hftrain"
ALLOWED = "HFTRAIN_PLUGINS"
"""Environment variable: empty keeps plugins of other distributions out, a comma list lets in those it names."""


class Kind(StrEnum):
    """What a plugin is for; the value is the word that people read."""

    TRACKER = "tracker"
    SEARCH = "search"
    HUB = "hub"
    OPTIMIZER = "optimizer"
    CALLBACK = "callback"

    @property
    def group(self) -> str:
        """The group of its entry points."""
        return _GROUPS[self]


_GROUPS = {
    Kind.TRACKER: "hftrain.trackers",
    Kind.SEARCH: "hftrain.search",
    Kind.HUB: "hftrain.hub",
    Kind.OPTIMIZER: "hftrain.optimizers",
    Kind.CALLBACK: "hftrain.callbacks",
}


class Status(StrEnum):
    """Whether a plugin can be used."""

    READY = "ready"
    MISSING = "missing"
    OUTDATED = "outdated"
    BROKEN = "broken"
    INCOMPATIBLE = "incompatible"
    COLLISION = "collision"
    DISABLED = "disabled"


BAD = (Status.BROKEN, Status.INCOMPATIBLE, Status.COLLISION)
"""What no installation of something else would mend."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A plugin as its distribution registered it; nothing of it is imported."""

    kind: Kind
    name: str
    distribution: str
    version: str
    entry_point: EntryPoint = field(repr=False)
    is_disabled: bool = False

    @property
    def full_name(self) -> str:
        """The name that no other distribution can have: ``dist:name``."""
        return f"{self.distribution}:{self.name}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One plugin with its status.

    Attributes:
        api: the interface it was written for; None if it was not loaded, or does not say.
        detail: why the status is what it is; empty when ready.
        fix: the command, or what else to do; empty if there is nothing.
    """

    registered: Registered
    status: Status
    api: int | None = None
    extra: str | None = None
    requires: tuple[str, ...] = ()
    detail: str = ""
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``hftrain plugins --json`` prints of it."""
        return {
            "kind": self.registered.kind.value,
            "name": self.registered.name,
            "distribution": self.registered.distribution,
            "version": self.registered.version,
            "api": self.api,
            "status": self.status.value,
            "extra": self.extra,
            "requires": list(self.requires),
            "detail": self.detail,
            "fix": self.fix,
        }


class Registry:
    """The plugins of this environment, as of when it was made."""

    def __init__(self) -> None:
        allowed = _allowed_distributions()
        self._all = [
            Registered(
                kind=kind,
                name=found.name,
                distribution=found.dist.name if found.dist else "?",
                version=found.dist.version if found.dist else "?",
                entry_point=found,
                is_disabled=_is_disabled(found.dist.name if found.dist else "?", allowed),
            )
            for kind in Kind
            for found in sorted(entry_points(group=kind.group), key=_place)
        ]

    def all(self, kind: Kind | None = None) -> tuple[Registered, ...]:
        """Return what is registered, disabled ones included, by kind and name."""
        return tuple(one for one in self._all if kind in (None, one.kind))

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names that can be used, sorted."""
        return tuple(sorted({one.name for one in self.all(kind) if not one.is_disabled}))

    def find(self, kind: Kind, name: str) -> Registered:
        """Return the plugin that a user named, as ``name`` or ``dist:name``. Imports nothing.

        Raises:
            PluginNotFoundError: there is none, or it is disabled.
            PluginCollisionError: several distributions registered the name.
        """
        distribution, _, plain = name.rpartition(":")
        named = [
            one
            for one in self.all(kind)
            if one.name == plain and distribution in ("", one.distribution, canonicalize_name(one.distribution))
        ]
        usable = [one for one in named if not one.is_disabled]
        if len(usable) == 1:
            return usable[0]
        if usable:
            full_names = " or ".join(repr(one.full_name) for one in usable)
            raise PluginCollisionError(
                f"{len(usable)} installed distributions have a {kind.value} called {plain!r}: "
                f"{', '.join(one.distribution for one in usable)}. Name the one you mean: {full_names}."
            )
        if named:
            raise PluginNotFoundError(
                f"The {kind.value} {name!r} of {named[0].distribution} is disabled by {ALLOWED}="
                f"{os.environ.get(ALLOWED)!r}. Add {named[0].distribution} to it, or unset it."
            )
        raise PluginNotFoundError(self._not_found(kind, name, plain))

    def load(self, kind: Kind, name: str) -> type[Any]:
        """Import the plugin that a user named, and return its class: it can be used.

        Raises:
            PluginNotFoundError, PluginCollisionError: as `find` does.
            PluginBrokenError: it cannot be imported, or is no plugin.
            PluginIncompatibleError: it was written for another version of this interface.
            PluginUnavailableError: what it requires is not installed.
        """
        registered = self.find(kind, name)
        loaded = load_class(registered)
        missing = lacks(loaded.requires)
        if missing:
            raise PluginUnavailableError(
                f"The {kind.value} {registered.name!r} needs {', '.join(lack.text for lack in missing)}. "
                f"Run: {install_command(registered, loaded.extra, loaded.requires)}"
            )
        return loaded

    def reports(self, kind: Kind | None = None, *, check: bool = False) -> Iterator[Report]:
        """Say of each plugin whether it can be used.

        Args:
            kind: of the plugins; None for all.
            check: import each of them; else what can be told from the metadata is told.
        """
        for registered in self.all(kind):
            yield self._report(registered, check=check)

    def _report(self, registered: Registered, *, check: bool) -> Report:
        if registered.is_disabled:
            return Report(
                registered=registered,
                status=Status.DISABLED,
                detail=f"{ALLOWED}={os.environ.get(ALLOWED)!r} leaves it out",
                fix=f"add {registered.distribution} to {ALLOWED}, or unset it",
            )
        try:
            self.find(registered.kind, registered.name)
        except PluginCollisionError as error:
            return Report(
                registered=registered,
                status=Status.COLLISION,
                detail=str(error),
                fix=f"write {registered.full_name!r}, or uninstall one of them",
            )
        return _checked(registered) if check else _from_metadata(registered)

    def _not_found(self, kind: Kind, name: str, plain: str) -> str:
        names = self.names(kind)
        close = get_close_matches(plain, names, n=1)
        text = f"There is no {kind.value} called {name!r}"
        if close:
            one = next(one for one in self.all(kind) if one.name == close[0])
            extra = _extra_in_metadata(one)
            with_extra = f' (pip install "{one.distribution}[{extra}]")' if extra else ""
            return f"{text}; did you mean {close[0]!r}{with_extra}?"
        return f"{text}. There are: {', '.join(names) or 'none'}."


@cache
def registry() -> Registry:
    """Return the plugins of this environment; they are looked for once in a process."""
    return Registry()


def usable_names(kind: Kind) -> list[str]:
    """Return the plugins whose requirements are installed, as far as metadata tells; nothing is imported."""
    return [one.registered.name for one in registry().reports(kind) if one.status is Status.READY]


def load_class(registered: Registered) -> type[Any]:
    """Import a plugin and return its class, whether or not its requirements are installed.

    Raises:
        PluginBrokenError: it cannot be imported, or is no plugin.
        PluginIncompatibleError: it was written for another version of this interface.
    """
    what = f"The {registered.kind.value} {registered.name!r} of {registered.distribution} {registered.version}"
    try:
        loaded = registered.entry_point.load()
    except Exception as error:
        raise PluginBrokenError(
            f"{what} cannot be imported: {type(error).__name__}: {error}. Update {registered.distribution}, or "
            "report it to its authors."
        ) from error
    missing = [name for name in ("api", "requires", "extra") if not hasattr(loaded, name)]
    if not isinstance(loaded, type) or missing:
        found = f"a class without {', '.join(missing)}" if isinstance(loaded, type) else f"{loaded!r}, no class"
        raise PluginBrokenError(f"{what} is no plugin: {registered.entry_point.value} is {found}.")
    plugin: Any = loaded
    if plugin.api != API:
        is_older = isinstance(plugin.api, int) and plugin.api < API
        raise PluginIncompatibleError(
            f"{what} was written for version {plugin.api} of the plugin interface; this hftrain has version {API}. "
            f"Update {registered.distribution if is_older else OWN_DISTRIBUTION}."
        )
    return loaded


def install_command(registered: Registered, extra: str, requires: tuple[str, ...]) -> str:
    """Return the command that installs what a plugin needs."""
    if extra and extra in _extras_of(registered):
        return f'pip install "{registered.distribution}[{extra}]"'
    return "pip install " + " ".join(f'"{text}"' for text in requires)


def _checked(registered: Registered) -> Report:
    try:
        loaded = load_class(registered)
        missing = lacks(loaded.requires)
    except (PluginError, ValueError) as error:
        status = Status.INCOMPATIBLE if isinstance(error, PluginIncompatibleError) else Status.BROKEN
        return Report(
            registered=registered, status=status, detail=str(error), fix=f"pip install -U {registered.distribution}"
        )
    return _with_lacks(registered, missing, api=loaded.api, extra=loaded.extra, requires=tuple(loaded.requires))


def _from_metadata(registered: Registered) -> Report:
    """Tell what the extra of the plugin's name lacks: its requirements, as `hftrain`'s own plugins declare them."""
    extra = _extra_in_metadata(registered)
    if extra is None:
        return Report(registered=registered, status=Status.READY, detail="not loaded; --check loads it")
    requirement = f"{registered.distribution}[{extra}]"
    return _with_lacks(registered, lacks([requirement]), api=None, extra=extra, requires=())


def _with_lacks(
    registered: Registered, missing: tuple[Lack, ...], *, api: int | None, extra: str, requires: tuple[str, ...]
) -> Report:
    status = Status.READY
    if missing:
        status = Status.MISSING if any(lack.installed is None for lack in missing) else Status.OUTDATED
    needed = requires or tuple(lack.requirement for lack in missing)
    return Report(
        registered=registered,
        status=status,
        api=api,
        extra=extra or None,
        requires=needed,
        detail="; ".join(lack.text for lack in missing),
        fix=install_command(registered, extra, needed) if missing else "",
    )


def _extra_in_metadata(registered: Registered) -> str | None:
    plain = registered.name.replace("_", "").replace("-", "").replace(".", "")
    return plain if plain in _extras_of(registered) else None


def _extras_of(registered: Registered) -> list[str]:
    found = registered.entry_point.dist
    return (found.metadata.get_all("Provides-Extra") or []) if found else []


def _place(found: EntryPoint) -> tuple[str, str]:
    return found.name, found.dist.name if found.dist else ""


def _allowed_distributions() -> frozenset[str] | None:
    """Return the external distributions that may be used; None for all."""
    value = os.environ.get(ALLOWED)
    if value is None:
        return None
    return frozenset(canonicalize_name(name.strip()) for name in value.split(",") if name.strip())


def _is_disabled(distribution: str, allowed: frozenset[str] | None) -> bool:
    name = canonicalize_name(distribution)
    return allowed is not None and name != OWN_DISTRIBUTION and name not in allowed
