"""What CONTRIBUTING.md shows is done, as it is written there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.plugin_api.distributions import install

ROOT = Path(__file__).parents[1]
SECTION = "### A tracker: one file, one line, one test"


@pytest.fixture(scope="module")
def section() -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text[text.index(SECTION) :].partition("\n### ")[0]


@pytest.fixture(scope="module")
def project(section: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, the line and the test of the page."""
    folder = tmp_path_factory.mktemp("project")
    module, test = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (line,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    package = folder / "hftrain_integrations"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jsonl_tracker.py").write_text(module)
    (folder / "test_of_the_page.py").write_text(test)
    ((group, plugins),) = tomllib.loads(line)["project"]["entry-points"].items()
    install(folder, "of-the-page", plugins=[f"{name} = {value}" for name, value in plugins.items()], group=group)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, check=False, capture_output=True, text=True
    )


def test_the_test_of_the_page_passes(project: Path) -> None:
    done = run(project, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_of_the_page.py")
    assert "1 passed" in done.stdout, done.stdout


def test_the_plugin_of_the_page_is_found_and_ready(project: Path) -> None:
    done = run(project, "-m", "hftrain", "plugins", "--check", "--json")
    status = {row["name"]: row["status"] for row in json.loads(done.stdout)["plugins"]}
    assert status["jsonl"] == "ready"


def test_it_takes_less_than_a_page(section: str) -> None:
    assert len(section.splitlines()) <= 80
