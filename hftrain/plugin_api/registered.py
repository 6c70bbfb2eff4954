"""What the installed distributions register, read from their metadata. Nothing of them is imported.

A distribution registers its plugins as entry points, in a group for each kind::

    [project.entry-points."hftrain.trackers"]
    csv = "my_package.csv_tracker:CsvTracker"
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import Distribution, EntryPoint, distribution, distributions

from packaging.utils import canonicalize_name

from hftrain.plugin_api.requirements import plain_name

logger = logging.getLogger(__name__)

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
_KINDS = {group: kind for kind, group in _GROUPS.items()}


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A plugin as its distribution registered it; nothing of it is imported.

    Attributes:
        extras: of its distribution.
        requires: what its distribution needs, extras included, in the form of PEP 508.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    entry_point: EntryPoint = field(repr=False)
    is_disabled: bool = False
    extras: tuple[str, ...] = ()
    requires: tuple[str, ...] = field(default=(), repr=False)

    @property
    def full_name(self) -> str:
        """The name that no other distribution can have: ``dist:name``."""
        return f"{self.distribution}:{self.name}"

    @property
    def extra_of_its_name(self) -> str | None:
        """The extra that is called as the plugin is, separators apart; None if there is none."""
        return next((extra for extra in self.extras if plain_name(extra) == plain_name(self.name)), None)

    def has_extra(self, extra: str) -> bool:
        """Whether its distribution has an extra of that name, in any of the spellings that pip takes."""
        return bool(extra) and canonicalize_name(extra) in map(canonicalize_name, self.extras)


def installed_plugins() -> list[Registered]:
    """Return what is registered, by kind and name.

    A distribution whose metadata cannot be read is passed over with a warning. One that is found twice, as an editable
    install beside its source is, counts as what Python would import: the first on ``sys.path``.
    """
    allowed = _allowed_distributions()
    found: list[Registered] = []
    seen: set[str] = set()
    for one in distributions():
        try:
            plugins = _plugins_of(one, allowed) if "hftrain." in (one.read_text("entry_points.txt") or "") else []
        except Exception as error:  # one broken folder must not take every other plugin away
            logger.warning("What a distribution in %s registers cannot be read: %r.", one.locate_file(""), error)
            continue
        names = {canonicalize_name(plugin.distribution) for plugin in plugins}
        if not names & seen:
            found.extend(plugins)
        seen |= names
    order = list(Kind)
    return sorted(found, key=lambda plugin: (order.index(plugin.kind), plugin.name, plugin.distribution))


def _plugins_of(found: Distribution, allowed: frozenset[str] | None) -> list[Registered]:
    metadata = found.metadata  # parsed anew each time it is asked for: 2 ms with a long description
    name = metadata["Name"]
    if str(distribution(name).locate_file("")) != str(found.locate_file("")):
        return []  # another one of that name comes before it on sys.path
    own = canonicalize_name(name)
    requires = tuple(found.requires or ())
    plugins = [
        Registered(
            kind=_KINDS[entry.group],
            name=entry.name,
            distribution=name,
            version=metadata["Version"] or "?",
            entry_point=entry,
            is_disabled=allowed is not None and own != OWN_DISTRIBUTION and own not in allowed,
            extras=tuple(metadata.get_all("Provides-Extra") or ()),
            requires=requires,
        )
        for entry in found.entry_points
        if entry.group in _KINDS
    ]
    return list({(one.kind, one.name, one.entry_point.value): one for one in plugins}.values())


def _allowed_distributions() -> frozenset[str] | None:
    """Return the external distributions that may be used; None for all."""
    value = os.environ.get(ALLOWED)
    if value is None:
        return None
    return frozenset(canonicalize_name(name.strip()) for name in value.split(",") if name.strip())
