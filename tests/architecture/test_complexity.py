from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def function_with(branches: int) -> str:
    body = "".join(f"    if value == {n}:\n        value += 1\n" for n in range(branches))
    return f'"""A module."""\n\n\ndef planted(value: int) -> int:\n    """Decide."""\n{body}    return value\n'


def ruff(source: str) -> subprocess.CompletedProcess[str]:
    """Check ``source`` as if it stood in the package, with the limits of pyproject.toml."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", "hftrain/core/planted.py", "-"]
    return subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)


def test_a_function_of_complexity_ten_passes() -> None:
    assert ruff(function_with(branches=9)).returncode == 0


def test_a_function_too_complex_is_caught() -> None:
    result = ruff(function_with(branches=10))
    assert result.returncode == 1
    assert "C901" in result.stdout
    assert "(11 > 10)" in result.stdout


def test_a_function_of_too_many_statements_is_caught() -> None:
    source = function_with(branches=0).replace("    return", "    value += 1\n" * 40 + "    return")
    assert "PLR0915" in ruff(source).stdout


def test_a_public_function_without_a_docstring_is_caught() -> None:
    source = function_with(branches=0).replace('    """Decide."""\n', "")
    assert "D103" in ruff(source).stdout
