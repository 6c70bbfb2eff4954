from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hftrain", "hftrain_plugins", "hftrain_integrations"}

pytestmark = pytest.mark.slow


def build(source: Path, target: Path) -> Path:
    """Build wheel and sdist of ``source`` into ``target`` with the build backend of this environment."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return target


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (only,) = built.glob("*.whl")
    return only


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    assert {name.split("/")[0] for name in contents(wheel)} == PACKAGES


def test_the_wheel_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= contents(wheel)


def test_the_wheel_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_the_wheel_holds_what_the_report_page_is_made_of(wheel: Path) -> None:
    assets = {f"hftrain/report/assets/{file.name}" for file in (ROOT / "hftrain" / "report" / "assets").iterdir()}
    assert len(assets) > 5
    assert assets <= contents(wheel)


def test_a_wheel_built_from_the_sdist_is_the_same(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (again,) = build(next(tmp_path.iterdir()), tmp_path / "dist").glob("*.whl")
    assert contents(again) == contents(wheel)


def test_the_wheel_installs_in_a_fresh_environment_and_works(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    (site / "torch_of_the_test.pth").write_text(sysconfig.get_path("purelib"))
    use = "import hftrain, hftrain_plugins, hftrain_integrations; hftrain.TaskModule; print(hftrain.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([python, "-c", use], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert Path(run.stdout.strip()).is_relative_to(site)
    command = [str(python.with_name("hftrain")), "checkpoint", "list", str(tmp_path)]
    told = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert told.stdout == f"{tmp_path} holds no checkpoints.\n"
