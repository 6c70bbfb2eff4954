from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of ``root/pyproject.toml`` against the packages below ``root``."""
    path = os.pathsep.join([str(root), str(root / "plugins"), str(root / "integrations")])
    command = [sys.executable, "-c", LINT, "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", root)
    for package in ("hftrain", "plugins", "integrations"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def test_the_tree_keeps_its_contracts() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("hftrain/types/planted.py", "import hftrain.args", "Imports point down only"),
        ("hftrain/optim/planted.py", "import hftrain.core", "Imports point down only"),
        ("hftrain/optim/planted.py", "from hftrain import Trainer", "Imports point down only"),
        ("hftrain/somewhere/__init__.py", "", "Imports point down only"),
        ("hftrain/core/planted.py", "import hftrain.args", "nothing sees the arguments"),
        ("hftrain/core/planted.py", "import lightning_fabric", "Only hardware imports lightning_fabric"),
        ("hftrain/core/planted.py", "import torchmetrics", "without importing torchmetrics"),
        ("hftrain/hardware/planted.py", "import lightning.fabric", "Lightning's second tree"),
        ("hftrain/trainer/planted.py", "import transformers", "nor the reference is imported"),
        ("hftrain/trainer/planted.py", "import hftrain_plugins", "The house knows no plugin by name"),
        ("plugins/hftrain_plugins/planted.py", "import hftrain.core", "nothing of ours but hftrain.plugin_api"),
    ],
)
def test_a_planted_violation_is_caught(copied_tree: Path, file: str, line: str, broken: str) -> None:
    planted = copied_tree / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(line + "\n")
    try:
        result = lint_imports(copied_tree)
    finally:
        planted.unlink()
        if not any(planted.parent.iterdir()):
            planted.parent.rmdir()
    verdict = [row for row in result.stdout.splitlines() if broken in row]
    assert result.returncode == 1
    assert any("BROKEN" in row for row in verdict), result.stdout
