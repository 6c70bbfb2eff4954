from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRESH = "import sys; from hftrain.hardware"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_engine_does_not_import_fabric() -> None:
    modules = sorted(path.stem for path in (ROOT / "hftrain" / "hardware").glob("[a-z]*.py"))
    assert "engine" in modules
    imports = "; ".join(f"import hftrain.hardware.{module}" for module in modules)
    assert run(f"{imports}; import sys; print('lightning_fabric' in sys.modules)") == "False"


def test_the_world_is_read_without_torch() -> None:
    assert run(f"{FRESH}.world import read_world; read_world(); print('torch' in sys.modules)") == "False"


def test_fabric_comes_without_torchmetrics_and_its_flag_is_restored() -> None:
    code = f"""{FRESH}.fabric import load_fabric
fabric = load_fabric()
hidden = "torchmetrics" not in sys.modules and "lightning.pytorch" not in sys.modules
from lightning_fabric.utilities.imports import _TORCHMETRICS_GREATER_EQUAL_1_0_0 as flag
import torchmetrics
print(hidden, flag, load_fabric() is fabric, torchmetrics.__version__ > "1")"""
    assert run(code) == "True True True True"


def test_a_missing_fabric_says_what_to_install() -> None:
    code = """import sys
sys.modules["lightning_fabric"] = None
from hftrain.errors import HardwareError
from hftrain.hardware.fabric import load_fabric
try:
    load_fabric()
except HardwareError as error:
    print(error, "torchmetrics" in sys.modules)"""
    assert run(code) == 'lightning_fabric is not installed. Run: pip install "lightning>=2.6,<2.7" False'


@pytest.mark.parametrize("setting", ["LT_ACCELERATOR=tpu", "LT_DEVICES=3", "LT_PRECISION=64-true", "SLURM_NTASKS=4"])
def test_the_environment_changes_nothing_behind_our_back(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    from hftrain.hardware.engine import create_engine
    from hftrain.hardware.settings import EngineSettings

    monkeypatch.setenv(*setting.split("="))
    engine = create_engine(EngineSettings(accelerator="cpu"))
    assert engine.device.type == "cpu"
    assert engine.world_size == 1
