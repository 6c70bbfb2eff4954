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


TRACKERS = [name.replace("_", "") for name in PROJECT["entry-points"]["hftrain.trackers"] if name != "local"]


def pinned(file: str = "constraints.txt") -> dict[str, str]:
    rows = (ROOT / ".ci" / file).read_text().splitlines()
    pairs = (row.split("==") for row in rows if row and not row.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_has_a_name_that_every_pip_finds(extra: str) -> None:
    assert re.fullmatch("[a-z0-9-]+", extra)  # with `_` or `.` in it, pip skips the extra without a word


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["dev"]])
def test_what_the_tests_need_is_pinned_within_the_range_we_ask_for(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("text", [text for extra in TRACKERS for text in EXTRAS[extra]])
def test_a_tracker_is_tested_in_a_version_within_the_range_we_ask_for(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pinned("trackers.txt")[canonicalize_name(requirement.name)])


def test_the_trackers_are_tested_without_transformers_and_with_the_torch_that_is_linked() -> None:
    assert pinned("trackers.txt").keys().isdisjoint({"transformers", "torch", "lightning", "pytorch-lightning"})


@pytest.mark.parametrize("name", ["pytest", "pytest-timeout", "hatchling"])
def test_both_environments_test_with_the_same_tools(name: str) -> None:
    assert pinned("trackers.txt")[name] == pinned()[name]


def test_the_extra_all_holds_every_other_one_but_dev() -> None:
    (everything,) = (Requirement(text) for text in EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all", "dev"}


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
