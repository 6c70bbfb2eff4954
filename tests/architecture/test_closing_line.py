from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "closing_line.py"


def summed(folder: Path, *reports: str) -> str:
    files = [folder / str(number) for number in range(len(reports))]
    for file, text in zip(files, reports, strict=True):
        file.write_text(text)
    done = subprocess.run([sys.executable, SCRIPT, *files], check=True, capture_output=True, text=True)
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
