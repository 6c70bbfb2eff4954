"""A short form of chaos.py, which says what it proves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("chaos.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # half a minute of processor time, and hundreds of flushes to a disk that others use too
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the processes are watched as Linux alone lets us"),
]


def test_killed_runs_go_on_and_end_to_the_bit_as_if_nobody_had_killed_them(tmp_path: Path) -> None:
    without = ["--without", "torchrun", "two-later"]  # whose other process is waited for 30 s
    command = [sys.executable, str(SCRIPT), "--kills", "20", "--dir", str(tmp_path), *without]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 violations" in done.stdout
