"""What ``report_to`` may say, and what each of it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.registry import registry
from tests.plugin_api.distributions import install
from tests.trainer.tasks import trainer
from tests.trainer.telling import NOTES

CODE = """
import json, sys
from hftrain.plugin_api import registry
from tests.trainer.tasks import trainer
run = trainer({folder!r}, report_to={names!r})
ours = sorted(name for name in sys.modules if name.startswith("hftrain_integrations.") or name.endswith("_of_a_test"))
print(json.dumps([registry.registry.cache_info().currsize, ours]))
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    install(site, "notes-of-a-test", plugins=["notes"], code=NOTES)
    registry.cache_clear()
    yield lambda names: trainer(tmp_path / "out", report_to=names)._tracking
    registry.cache_clear()
    sys.modules.pop("notes_of_a_test", None)


def scanned_and_imported(folder: Path, names: Any) -> tuple[bool, list[str]]:
    """Whether plugins were looked for, and which of ours were imported, in a process of its own."""
    code = CODE.format(folder=str(folder), names=names)
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    count, imported = json.loads(done.stdout.splitlines()[-1])
    return bool(count), imported


def test_none_looks_for_nothing_and_imports_nothing(tmp_path: Path) -> None:
    assert scanned_and_imported(tmp_path, "none") == (False, [])


def test_naming_one_imports_one(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    for name in ("notes", "other"):
        install(tmp_path / "site", f"{name}-of-a-test", plugins=[name], code=NOTES)
    assert scanned_and_imported(tmp_path, "notes") == (True, ["notes_of_a_test"])


@pytest.mark.parametrize(
    "names", ["notes", ["notes"], ["notes", "notes"], "notes-of-a-test:notes", ["notes", "notes-of-a-test:notes"]]
)
def test_one_tracker_is_one_however_it_is_named(notes: Callable[..., Any], names: Any) -> None:
    assert len(notes(names)._trackers) == 1


@pytest.mark.parametrize("names", ["none", [], ["none"]])
def test_nobody_is_nobody(notes: Callable[..., Any], names: Any) -> None:
    assert notes(names) is None
