"""Which of a plugin's requirements are not installed, asked of the metadata that pip leaves.

Never of the import system: an empty folder called ``wandb`` in the working directory can be imported too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, kw_only=True)
class Lack:
    """One requirement that is not met.

    Attributes:
        requirement: as it was written.
        installed: the version that is there, and does not do; None if there is none.
    """

    requirement: str
    installed: str | None = None

    @property
    def text(self) -> str:
        """Say it: ``wandb>=0.16 (not installed)``."""
        found = "not installed" if self.installed is None else f"{self.installed} is installed"
        return f"{self.requirement} ({found})"


def lacks(requires: Iterable[str]) -> tuple[Lack, ...]:
    """Return the requirements that this environment does not meet.

    Args:
        requires: in the form of PEP 508. One whose marker is false here is met; the extras of one are looked at too.

    Raises:
        ValueError: one of them cannot be parsed.
    """
    found: list[Lack] = []
    for text in requires:
        found.extend(_lacks_of(_parsed(text), seen=set()))
    return tuple(dict.fromkeys(found))


def _parsed(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement: {error}") from error


def _lacks_of(requirement: Requirement, *, seen: set[tuple[str, str]]) -> Iterator[Lack]:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return
    plain = f"{requirement.name}{requirement.specifier}"
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        yield Lack(requirement=_with_extras(requirement))
        return
    if not _is_met(requirement, found.version):
        yield Lack(requirement=plain, installed=found.version or "a version that cannot be read")
        return
    for extra in sorted(requirement.extras):
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        for text in requirements_of(found.requires or (), extra):
            yield from _lacks_of(Requirement(text), seen=seen)


def requirements_of(requires: Iterable[str], extra: str) -> tuple[str, ...]:
    """Return what an extra of a distribution needs here, beside what the distribution needs anyway.

    Args:
        requires: all that its metadata says it needs.
        extra: as the metadata spells it.
    """
    needed = []
    for text in requires:
        if plain_name(extra) not in plain_name(text):
            continue  # 0.1 ms to parse each, and a distribution may have a hundred
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue  # not of the extra: pip saw to it when it installed the package
        if requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            needed.append(str(requirement))
    return tuple(needed)


def plain_name(name: str) -> str:
    """Return a name without what its spellings differ in: ``Azure_ML``, ``azure-ml`` and ``azureml`` are one."""
    return name.lower().replace("_", "").replace("-", "").replace(".", "")


def _is_met(requirement: Requirement, version: str | None) -> bool:
    """Whether a version does; one that cannot be read, of a package that is half removed, does not."""
    try:
        return requirement.specifier.contains(Version(version or ""), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _with_extras(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
