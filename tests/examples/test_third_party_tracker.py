from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_examples_own_test_passes(tmp_path: Path) -> None:
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "own")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    folder = ROOT / "examples" / "third_party_tracker"
    done = subprocess.run(pytest, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_tracker_of_the_example_is_thirty_lines() -> None:
    code = (ROOT / "examples" / "third_party_tracker" / "src" / "csv_tracker" / "__init__.py").read_text()
    lines = code[code.index("class CsvTracker") :].splitlines()
    assert len([line for line in lines if line.strip()]) <= 30
