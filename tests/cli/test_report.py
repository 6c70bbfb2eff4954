from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hftrain.cli.main import main
from hftrain.report.page import embedded
from tests.report.kit import make_run


def test_the_page_of_a_run_lies_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "out" / "runs" / "a")
    assert main(["report", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "runs" / "a" / "report.html"
    assert capsys.readouterr().out == f"{path}: 1 run, {path.stat().st_size / 1e6:.1f} MB\n"
    assert len(embedded(path.read_text())["runs"]) == 1


def test_several_runs_are_compared_in_one_page_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        make_run(tmp_path / name / "runs" / name, name=name)
    assert main(["report", "a", "b", "a/runs/a", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["file"], [run["label"] for run in document["runs"]]) == ("report.html", ["a", "b"])
    assert document["bytes"] == (tmp_path / "report.html").stat().st_size
    assert document["runs"][0]["points"] == 68


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()


def test_a_folder_without_a_run_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is no run, and holds none" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "runs" / "a")
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "no" / "page.html")]) == 1
    assert "FileNotFoundError" in capsys.readouterr().err


def test_a_report_is_made_without_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    code = "import sys; from hftrain.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "report", str(tmp_path)], check=True, capture_output=True)
