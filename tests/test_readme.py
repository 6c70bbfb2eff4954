from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_task_module_example_comes_first() -> None:
    assert "class Digits(TaskModule)" in BLOCKS[0]


def test_the_task_module_example_type_checks(tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text(BLOCKS[0])
    command = [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "digits.py")]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_the_python_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text("\n".join(BLOCKS))
    command = [sys.executable, "-W", "error", "readme.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "'test_accuracy': 0.9" in run.stdout
    assert (tmp_path / "digits-run").is_dir()
