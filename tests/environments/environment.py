"""Virtual environments made in a second or two, for tests of what is installed where."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.environments.links import ROOT, link_requirements

OF_THE_OUTSIDE = ("PYTHONPATH", "PYTHONHOME", "HFTRAIN_PLUGINS")
"""Variables that would let in what is not installed in the environment, or keep out what is."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One virtual environment.

    Attributes:
        folder: where it lies.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self._command("python")

    def install(self, *wheels: Path) -> None:
        """Install wheels with pip, as they are: nothing they require, nothing from a network."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python)]
        files = [str(wheel) for wheel in wheels]
        subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", *files], check=True, capture_output=True)

    def run(self, command: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of its commands (``python``, ``hftrain``), and return what it printed and its exit code.

        Args:
            command: its name; it lies in the environment's folder of commands.
            words: its arguments.
            cwd: where it runs; None for the environment's folder, where no source of ours can be imported from.
        """
        kept = {name: value for name, value in os.environ.items() if name not in OF_THE_OUTSIDE}
        return subprocess.run(
            [str(self._command(command)), *words],
            check=False,
            cwd=cwd or self.folder,
            env={**kept, "PYTHONNOUSERSITE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def _command(self, name: str) -> Path:
        return Path(sysconfig.get_path("scripts", "venv", {"base": str(self.folder)})) / name


def make_environment(folder: Path, *wheels: Path) -> Environment:
    """Make an environment with the core requirements, linked from the one that runs the tests, and these wheels."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    link_requirements(folder)
    made = Environment(folder=folder)
    made.install(*wheels)
    return made


def build_wheel(source: Path, target: Path) -> Path:
    """Build the wheel of the project in ``source`` with this environment's hatchling, and return its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    return wheel


def build_hftrain(target: Path) -> Path:
    """Build our own wheel."""
    return build_wheel(ROOT, target)
