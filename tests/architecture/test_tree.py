from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A clone must work on any machine: no registry's host or option, no path of the machine it was written on.
# Written in halves, so that this file does not find itself.
HALVES = [
    ("pypi", r"\.org"),
    ("python", "hosted"),
    ("index", "-url"),
    ("find", "-links"),
    ("/work", "/"),
    ("/root", "/"),
    ("/opt", "/"),
    ("ref", "venv"),
    ("/tmp", "/plan"),
]
OF_ONE_MACHINE = re.compile("|".join(first + second for first, second in HALVES))


def tracked_files() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = {}
    for file in tracked_files():
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
            if OF_ONE_MACHINE.search(line):
                found[f"{file.relative_to(ROOT)}:{number}"] = line.strip()
    assert found == {}


@pytest.mark.parametrize("folder", ["plugins", "integrations"])
def test_the_folders_of_plugins_are_no_packages_themselves(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_module_of_a_package_can_be_read_alone() -> None:
    """A folder of Python files is a package with a docstring, and re-exports nothing, so that imports stay lazy."""
    for init in (ROOT / "hftrain").glob("*/__init__.py"):
        assert len(init.read_text().splitlines()) == 1, init
