from __future__ import annotations

import json
from pathlib import Path

import pytest

from hftrain.cli.main import main
from tests.plugin_api.distributions import PLUGIN, install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HFTRAIN_PLUGINS", raising=False)
    return tmp_path


def test_the_document_has_the_fields_of_every_plugin(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "cli-tool-a", version="2.0", plugins=["cli_some"], code=PLUGIN)
    assert main(["plugins", "--json", "--check"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["api"] == 1
    (row,) = (row for row in document["plugins"] if row["name"] == "cli_some")
    assert row == {
        "kind": "tracker",
        "name": "cli_some",
        "distribution": "cli-tool-a",
        "version": "2.0",
        "api": 1,
        "status": "ready",
        "extra": None,
        "requires": [],
        "detail": "",
        "fix": "",
    }


def test_the_table_says_what_to_do(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "cli-tool-b", plugins=["cli_net"], code=PLUGIN.replace("()", "('no-such-net>=2',)"))
    assert main(["plugins", "--check"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "cli_net" in line)
    assert "missing" in line
    assert 'pip install "no-such-net>=2"' in line


def test_a_broken_one_fails_the_check_only(site: Path) -> None:
    install(site, "cli-tool-c", plugins=["cli_broken"], code="1 / 0")
    assert main(["plugins"]) == 0
    assert main(["plugins", "--check"]) == 1
