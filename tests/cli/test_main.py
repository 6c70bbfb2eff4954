"""The command finds its verb, and says by its exit code how it went."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from hftrain._version import __version__
from hftrain.cli.main import VERBS, main
from tests.checkpoint.kit import manager, save

ROOT = Path(__file__).parents[2]


def test_the_console_script_is_this_command() -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["hftrain"]
    module, name = script.split(":")
    assert getattr(import_module(module), name) is main


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"hftrain {__version__}\n"


def test_without_a_verb_it_lists_them_all_and_that_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr()
    assert all(verb in told.err and purpose in told.err for verb, (_, purpose) in VERBS.items())
    assert told.out == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["checkpiont"], "did you mean 'checkpoint'"),
        (["zzz"], "there is no verb 'zzz'"),
        (["--wrong"], "unrecognized arguments"),
        (["checkpoint"], "arguments are required"),
        (["checkpoint", "list"], "required: DIR"),
        (["checkpoint", "export", "a", "-o", "b", "--to", "lightning"], "invalid choice: 'lightning'"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_says_what_is_wrong(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_takes_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    assert f"usage: hftrain {verb}" in capsys.readouterr().out


def command(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    run = [sys.executable, "-m", "hftrain", *words]
    return subprocess.run(run, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_package_runs_as_a_command_and_relative_paths_are_of_the_working_folder(tmp_path: Path) -> None:
    save(manager(tmp_path / "runs"), 3)
    told = command("checkpoint", "list", "runs", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "checkpoint-3" in told.stdout


def test_a_failure_is_one_line_on_stderr_and_1(tmp_path: Path) -> None:
    told = command("checkpoint", "list", str(tmp_path / "nowhere"))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"There is no folder {tmp_path / 'nowhere'}.\n"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    save(manager(tmp_path), 1)
    line = f'"{sys.executable}" -m hftrain checkpoint list "{tmp_path}" | true; exit "${{PIPESTATUS[0]}}"'
    told = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_what_was_found_bad_is_told_to_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    (path / "model.safetensors").write_bytes(b"")
    line = f'"{sys.executable}" -m hftrain checkpoint verify "{tmp_path}" | true; exit "${{PIPESTATUS[0]}}"'
    told = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (1, "")


def test_a_terminal_without_the_letters_of_a_name_shows_their_numbers(tmp_path: Path) -> None:
    save(manager(tmp_path / "läufe"), 1)
    told = command("checkpoint", "verify", "läufe", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (told.returncode, told.stderr) == (0, "")
    assert "l\\xe4ufe/checkpoint-1" in told.stdout


HEAVY = """
import sys
from hftrain.cli.main import main
codes = [main(["checkpoint", *words.split()]) for words in {words!r}]
heavy = {{"torch", "numpy", "lightning_fabric", "fsspec"}} & set(sys.modules)
sys.exit(f"{{codes}} {{heavy}}" if any(codes) or heavy else 0)
"""


def test_listing_verifying_and_protecting_load_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    words = [f"list {tmp_path}", f"verify {tmp_path}", f"protect {path}"]
    told = subprocess.run(
        [sys.executable, "-c", HEAVY.format(words=words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")
