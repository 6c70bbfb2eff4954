from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftrain.cli.main import main
from tests.plugin_api.distributions import PLUGIN, install


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("HFTRAIN_PLUGINS", raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("cli_tool")]:
        del sys.modules[name]


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


def listing(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main(["plugins", *words])
    return capsys.readouterr().out


def test_the_table_is_eighty_columns_wide(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "cli-tool-d", plugins=["cli_broken"], code=f"raise OSError('{'long words ' * 30}')")
    install(site, "cli-tool-with-quite-a-long-name", plugins=["cli_net"], code=PLUGIN.replace("()", "('no-net>=2',)"))
    lines = listing(capsys, "--check").splitlines()
    assert max(map(len, lines)) <= 80
    assert '      pip install "no-net>=2"' in lines


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("1 / 0", ["broken", "pip install -U cli-tool-e", "ZeroDivisionError"]),
        (PLUGIN.replace("api = 1", "api = 9"), ["incompatible", "pip install -U hftrain", "version 9"]),
        (PLUGIN.replace("()", "('packaging>=999',)"), ["outdated", 'pip install "packaging>=999"', "is installed)"]),
    ],
)
def test_what_is_wrong_stands_below_what_to_do(
    site: Path, capsys: pytest.CaptureFixture[str], code: str, shown: list[str]
) -> None:
    install(site, "cli-tool-e", plugins=["cli_wrong"], code=code)
    text = listing(capsys, "--check")
    text = " ".join(text.split())
    places = [text.index(word, text.index("cli_wrong")) for word in shown]
    assert places == sorted(places)


def test_a_collision_and_a_disabled_one_say_what_to_do(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cli-tool-f", "cli-tool-g", "cli-tool-h"):
        install(site, name, plugins=["cli_same"], code=PLUGIN)
    monkeypatch.setenv("HFTRAIN_PLUGINS", "cli-tool-f,cli_tool_g")
    text = " ".join(listing(capsys, "--check").split())
    assert "write 'cli-tool-f:cli_same', or uninstall one of them" in text
    assert "add cli-tool-h to HFTRAIN_PLUGINS, or unset it" in text


def test_the_last_line_counts(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "cli-tool-i", plugins=["cli_some"], code=PLUGIN)
    assert re.search(r"^\d+ plugins?: .*\d+ ready", listing(capsys).splitlines()[-1])


@pytest.mark.parametrize("words", [[], ["--check"], ["--json", "--check"]])
def test_it_imports_no_torch(words: list[str]) -> None:
    code = "import sys; from hftrain.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "plugins", *words], check=True, capture_output=True)
