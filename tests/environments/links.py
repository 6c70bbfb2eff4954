"""Gives an environment what a bare install of hftrain needs, as links to what is installed where this is run.

``python tests/environments/links.py FOLDER``: the virtual environment FOLDER then imports this one's torch, Lightning
and what they require, and nothing else of it. Installing them again would take minutes and a gigabyte.
"""

from __future__ import annotations

import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def core_requirements() -> list[str]:
    """Return what pyproject.toml makes every installation have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements: list[str] = project["dependencies"]
    return requirements


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the installed distributions that the requirements need, and what those need in turn, by name.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        found[name] = found.get(name) or distribution(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += _required_by(found[name], extra)
    return found


def site_packages(folder: Path) -> Path:
    """Return where the virtual environment ``folder`` keeps its packages."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def link_requirements(folder: Path) -> None:
    """Let the virtual environment ``folder`` import the core requirements; what is installed in it comes first.

    The links lie outside its site-packages, where neither pip nor uv would ever write through one.
    """
    links = folder / "linked"
    links.mkdir(exist_ok=True)
    for old in links.iterdir():
        old.unlink()
    for found in closure(core_requirements()).values():
        for name in _top_level(found):
            link = links / name
            if not link.is_symlink():
                link.symlink_to(Path(str(found.locate_file(name))))
    (site_packages(folder) / "zz_linked.pth").write_text(f"{links.absolute()}\n")


def _required_by(found: Distribution, extra: str) -> Iterator[Requirement]:
    for text in found.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None:
            if not extra:
                yield requirement
        elif requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _top_level(found: Distribution) -> set[str]:
    first = {file.parts[0] for file in found.files or ()}
    return first - {"..", "__pycache__"}  # ..: its commands


if __name__ == "__main__":
    link_requirements(Path(sys.argv[1]))
