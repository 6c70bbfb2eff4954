"""Whether a plugin can be used, and what makes it so: the rows of ``hftrain plugins``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hftrain.plugin_api.registered import Registered
from hftrain.plugin_api.requirements import Lack, lacks, requirements_of


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


def from_metadata(registered: Registered) -> Report:
    """Tell what the extra of the plugin's name lacks: its requirements, as `hftrain`'s own plugins declare them."""
    extra = registered.extra_of_its_name
    if extra is None:
        return Report(registered=registered, status=Status.READY, detail="not loaded; --check loads it")
    return from_requirements(registered, extra=extra, requires=requirements_of(registered.requires, extra))


def from_requirements(
    registered: Registered, *, extra: str, requires: tuple[str, ...], api: int | None = None
) -> Report:
    """Tell what a plugin lacks.

    Raises:
        ValueError: one of the requirements cannot be parsed.
    """
    missing = lacks(requires)
    return Report(
        registered=registered,
        status=_status(missing),
        api=api,
        extra=extra or None,
        requires=requires,
        detail="; ".join(lack.text for lack in missing),
        fix=install_command(registered, extra, requires) if missing else "",
    )


def install_command(registered: Registered, extra: str, requires: tuple[str, ...]) -> str:
    """Return the command that installs what a plugin needs."""
    if registered.has_extra(extra):
        return f'pip install "{registered.distribution}[{extra}]"'
    return "pip install " + " ".join(f'"{text}"' for text in requires)


def _status(missing: tuple[Lack, ...]) -> Status:
    if not missing:
        return Status.READY
    return Status.MISSING if any(lack.installed is None for lack in missing) else Status.OUTDATED
