from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def pinned() -> dict[str, str]:
    rows = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pairs = (row.split("==") for row in rows if row and not row.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_has_a_name_that_every_pip_finds(extra: str) -> None:
    assert re.fullmatch("[a-z0-9-]+", extra)  # with `_` or `.` in it, pip skips the extra without a word


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["dev"]])
def test_what_the_tests_need_is_pinned_within_the_range_we_ask_for(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)])


def test_the_extra_all_holds_every_other_one_but_dev() -> None:
    (everything,) = (Requirement(text) for text in EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all", "dev"}


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
