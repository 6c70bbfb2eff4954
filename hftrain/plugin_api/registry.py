"""Plugins by name: found in the metadata of what is installed, and imported when somebody names them.

Nothing is scanned before a plugin is named, and then once in a process; only what is named is imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
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
from hftrain.plugin_api.hub import HubPublisher
from hftrain.plugin_api.registered import ALLOWED, OWN_DISTRIBUTION, Kind, Registered, installed_plugins
from hftrain.plugin_api.reports import Report, Status, from_metadata, from_requirements, install_command
from hftrain.plugin_api.requirements import lacks
from hftrain.plugin_api.search import SearchBackend
from hftrain.plugin_api.tracker import Tracker
from hftrain.types.callback import TrainerCallback

__all__ = [
    "API",
    "BASES",
    "Kind",
    "Registry",
    "load_class",
    "registry",
    "usable_names",
    "wrong_of_class",
]

API = 1
"""The version of this interface. A plugin's class says which one it was written for, in ``api``."""

BASES: dict[Kind, type[Any]] = {
    Kind.TRACKER: Tracker,
    Kind.SEARCH: SearchBackend,
    Kind.HUB: HubPublisher,
    Kind.CALLBACK: TrainerCallback,
}
"""What a plugin of each kind must inherit; a kind that is not here takes any class."""


class Registry:
    """The plugins of this environment, as of when it was made."""

    def __init__(self) -> None:
        self._all = installed_plugins()
        self._usable: dict[Kind, tuple[str, ...]] = {}

    def all(self, kind: Kind | None = None) -> tuple[Registered, ...]:
        """Return what is registered, disabled ones included, by kind and name."""
        return tuple(one for one in self._all if kind in (None, one.kind))

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names that can be used, sorted."""
        return tuple(sorted({one.name for one in self.all(kind) if not one.is_disabled}))

    def usable_names(self, kind: Kind) -> tuple[str, ...]:
        """Return those whose requirements are installed, as far as metadata tells; asked once. Imports nothing."""
        if kind not in self._usable:
            ready = (one.registered.name for one in self.reports(kind) if one.status is Status.READY)
            self._usable[kind] = tuple(ready)
        return self._usable[kind]

    def find(self, kind: Kind, name: str) -> Registered:
        """Return the plugin that a user named, as ``name`` or ``dist:name``. Imports nothing.

        Raises:
            PluginNotFoundError: there is none, or it is disabled.
            PluginCollisionError: several distributions registered the name.
        """
        distribution, _, plain = name.rpartition(":")
        wanted = canonicalize_name(distribution)
        named = [
            one for one in self.all(kind) if one.name == plain and wanted in ("", canonicalize_name(one.distribution))
        ]
        usable = [one for one in named if not one.is_disabled]
        if len(usable) == 1:
            return usable[0]
        if usable:
            raise PluginCollisionError(_collision(usable))
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
            PluginBrokenError: it cannot be imported, or is no plugin of that kind.
            PluginIncompatibleError: it was written for another version of this interface.
            PluginUnavailableError: what it requires is not installed.
        """
        registered = self.find(kind, name)
        loaded = load_class(registered)
        missing = lacks(loaded.requires)
        if missing:
            raise PluginUnavailableError(
                f"The {kind.value} {registered.name!r} needs {', '.join(lack.text for lack in missing)}. "
                f"Run: {install_command(registered, loaded.extra, tuple(loaded.requires))}"
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
        return _checked(registered) if check else _unchecked(registered)

    def _not_found(self, kind: Kind, name: str, plain: str) -> str:
        text = f"There is no {kind.value} called {name!r}"
        names = self.names(kind)
        close = get_close_matches(plain, names, n=1)
        if not close:
            return f"{text}. There are: {', '.join(names) or 'none'}."
        one = next(one for one in self.all(kind) if one.name == close[0] and not one.is_disabled)
        meant = one.full_name if one.name == plain else one.name  # of another distribution than was said
        extra = one.extra_of_its_name
        with_extra = f' (pip install "{one.distribution}[{extra}]")' if extra else ""
        return f"{text}; did you mean {meant!r}{with_extra}?"


@cache
def registry() -> Registry:
    """Return the plugins of this environment; they are looked for once in a process."""
    return Registry()


def usable_names(kind: Kind) -> tuple[str, ...]:
    """Return the plugins whose requirements are installed, as far as metadata tells; nothing is imported."""
    return registry().usable_names(kind)


def load_class(registered: Registered) -> type[Any]:
    """Import a plugin and return its class, whether or not its requirements are installed.

    Raises:
        PluginBrokenError: it cannot be imported, or is no plugin of its kind.
        PluginIncompatibleError: it was written for another version of this interface.
    """
    what = f"The {registered.kind.value} {registered.name!r} of {registered.distribution} {registered.version}"
    try:
        loaded = registered.entry_point.load()
    except (Exception, SystemExit) as error:
        raise PluginBrokenError(
            f"{what} cannot be imported: {type(error).__name__}: {error}. Update {registered.distribution}, or "
            "report it to its authors."
        ) from error
    api: Any = getattr(loaded, "api", None)
    if isinstance(loaded, type) and _is_version(api) and api != API:
        raise PluginIncompatibleError(
            f"{what} was written for version {api} of the plugin interface; this hftrain has version {API}. "
            f"Update {_to_update(registered, api)}."
        )
    wrong = wrong_of_class(registered.kind, loaded)
    if wrong:
        raise PluginBrokenError(f"{what} is no plugin: {registered.entry_point.value} {wrong}.")
    plugin: type[Any] = loaded
    return plugin


def wrong_of_class(kind: Kind, loaded: Any) -> str | None:
    """Say what keeps an object from being a plugin of a kind; None if nothing does."""
    if not isinstance(loaded, type):
        return f"is {loaded!r}, no class"
    base = BASES.get(kind)
    if base is not None and not issubclass(loaded, base):
        return f"must subclass {base.__module__}.{base.__qualname__}"
    if not _is_version(getattr(loaded, "api", None)):
        return f"does not say which version of the interface it was written for: set api = {API} in the class"
    requires = getattr(loaded, "requires", None)
    if not isinstance(requires, tuple | list) or not all(isinstance(text, str) for text in requires):
        return f"has requires = {requires!r}: set a tuple of requirements, such as ('wandb>=0.17',) or ()"
    try:
        lacks(requires)
    except ValueError as error:
        return f"has requires = {requires!r}: {error}"
    if not isinstance(getattr(loaded, "extra", None), str):
        return 'has no extra: set the name of the extra that installs what it requires, or ""'
    return None


def _is_version(api: object) -> bool:
    return isinstance(api, int) and not isinstance(api, bool) and api > 0


def _to_update(registered: Registered, api: int) -> str:
    return registered.distribution if api < API else OWN_DISTRIBUTION


def _collision(plugins: list[Registered]) -> str:
    kind, name = plugins[0].kind.value, plugins[0].name
    full_names = list(dict.fromkeys(repr(one.full_name) for one in plugins))
    if len(full_names) == 1:
        values = " and ".join(one.entry_point.value for one in plugins)
        return f"{plugins[0].distribution} registers two {kind}s called {name!r}: {values}. Report it to its authors."
    distributions = ", ".join(dict.fromkeys(one.distribution for one in plugins))
    return (
        f"{len(full_names)} installed distributions have a {kind} called {name!r}: {distributions}. Name the one you "
        f"mean: {' or '.join(full_names)}."
    )


def _unchecked(registered: Registered) -> Report:
    try:
        return from_metadata(registered)
    except ValueError as error:
        return _broken(registered, error)


def _checked(registered: Registered) -> Report:
    try:
        loaded = load_class(registered)
        return from_requirements(registered, extra=loaded.extra, requires=tuple(loaded.requires), api=loaded.api)
    except PluginIncompatibleError as error:
        api = registered.entry_point.load().api  # it was imported already
        return Report(
            registered=registered,
            status=Status.INCOMPATIBLE,
            api=api,
            detail=str(error),
            fix=f"pip install -U {_to_update(registered, api)}",
        )
    except (PluginError, ValueError) as error:
        return _broken(registered, error)


def _broken(registered: Registered, error: Exception) -> Report:
    return Report(
        registered=registered,
        status=Status.BROKEN,
        detail=str(error),
        fix=f"pip install -U {registered.distribution}",
    )
