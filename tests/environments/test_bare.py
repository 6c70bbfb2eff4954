from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.environments.environment import Environment
from tests.environments.links import ROOT

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = {
    (group.removeprefix("hftrain.").removesuffix("s"), name)
    for group, plugins in PROJECT["entry-points"].items()
    for name in plugins
}
NEED_NOTHING = {("tracker", "local")}


@pytest.fixture(scope="module")
def listed(bare_environment: Environment) -> dict[tuple[str, str], dict[str, Any]]:
    """What ``hftrain plugins --check`` says of each plugin where nothing optional is installed."""
    done = bare_environment.run("hftrain", "plugins", "--check", "--json")
    assert done.returncode == 0, done.stderr
    return {(row["kind"], row["name"]): row for row in json.loads(done.stdout)["plugins"]}


def test_every_shipped_plugin_is_listed(listed: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert listed.keys() == SHIPPED


@pytest.mark.parametrize(("kind", "name"), sorted(NEED_NOTHING))
def test_what_needs_nothing_is_ready(listed: dict[tuple[str, str], dict[str, Any]], kind: str, name: str) -> None:
    assert (listed[kind, name]["status"], listed[kind, name]["fix"]) == ("ready", "")


@pytest.mark.parametrize(("kind", "name"), sorted(SHIPPED - NEED_NOTHING))
def test_the_rest_is_missing_and_names_its_extra(
    listed: dict[tuple[str, str], dict[str, Any]], kind: str, name: str
) -> None:
    row = listed[kind, name]
    extra = name.replace("_", "")
    assert (row["status"], row["fix"]) == ("missing", f'pip install "hftrain[{extra}]"')
    assert extra in PROJECT["optional-dependencies"]


def test_pip_finds_nothing_missing(bare_environment: Environment) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(bare_environment.python), "check"]
    done = subprocess.run(pip, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["transformers", "pytest", "tensorboard"])
def test_nothing_else_of_the_main_environment_can_be_imported(bare_environment: Environment, module: str) -> None:
    done = bare_environment.run("python", "-c", f"import {module}")
    assert f"No module named '{module}'" in done.stderr


def test_the_front_door_opens(bare_environment: Environment) -> None:
    use = "import hftrain; print(hftrain.Trainer.__module__, hftrain.__file__)"
    done = bare_environment.run("python", "-c", use)
    assert done.returncode == 0, done.stderr
    assert str(bare_environment.folder) in done.stdout
