from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "closing_line.py"


def summed(folder: Path, *reports: str, codes: tuple[int, ...] = (0, 0)) -> str:
    files = [folder / str(number) for number in range(len(reports))]
    for file, text in zip(files, reports, strict=True):
        file.write_text(text)
    arguments = [f"{file}={code}" for file, code in zip(files, codes, strict=False)]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize(
    ("reports", "line"),
    [
        (["= 2 passed, 1 skipped in 3.50s =\n", "3 passed, 4 xfailed in 1.00s"], "5 passed, 1 skipped, 4 xfailed"),
        (["== 1 failed, 2 passed in 3.50s (0:00:03) ==\n", "3 passed in 1.00s"], "1 failed, 5 passed"),
        (["2 passed in 3.50s\n", "1 failed, 1 error in 1.00s\nmake: Error 1\n"], "1 failed, 2 passed, 1 error"),
        (["2 passed, 1 warning in 3.50s\n", "1 passed, 1 warning in 1.00s\n"], "3 passed, 2 warnings"),
        (["no tests ran in 3.50s\n", "no tests ran in 1.00s"], "no tests ran"),
    ],
)
def test_the_closing_line_sums_what_each_suite_says(tmp_path: Path, reports: list[str], line: str) -> None:
    assert summed(tmp_path, *reports) == f"{line} in 4.50s\n"


def test_a_suite_that_does_not_say_what_came_of_it_is_an_error(tmp_path: Path) -> None:
    assert summed(tmp_path, "2 passed in 3.50s\n", "Killed\n") == "2 passed, 1 error in 3.50s\n"


def test_what_a_test_prints_counts_for_nothing(tmp_path: Path) -> None:
    assert summed(tmp_path, "said 9 passed in 1.00s\n= 2 passed in 3.50s =\n") == "2 passed in 3.50s\n"


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ("3 passed in 1.00s\n", "5 passed, 1 error"),
        ("3 passed, 1 failed in 1.00s\n", "1 failed, 5 passed"),
        ("3 passed, 1 error in 1.00s\n", "5 passed, 1 error"),
        ("no tests ran in 1.00s\n", "2 passed, 1 error"),
    ],
)
def test_a_suite_that_passes_and_then_dies_is_an_error(tmp_path: Path, second: str, line: str) -> None:
    assert summed(tmp_path, "2 passed in 3.50s\n", second, codes=(0, 139)) == f"{line} in 4.50s\n"


def test_both_suites_of_ci_hand_their_exit_codes_on(tmp_path: Path) -> None:
    said = "case $1 in test) echo 2 passed in 1.00s;; test-trackers) cat; echo 3 passed in 1.00s; exit 3;; esac\n"
    (tmp_path / "make").write_text(f"#!/bin/sh\n{said}")
    (tmp_path / "make").chmod(0o755)
    reads, writes = os.pipe()  # nobody closes it: a suite that reads it waits for ever
    try:
        done = subprocess.run(
            ["bash", ROOT / ".ci" / "run"],
            check=False,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdin=reads,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(reads)
        os.close(writes)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "5 passed, 1 error in 2.00s")
