from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trackers import test_lives
from tests.trackers.environments import ENVIRONMENTS, environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent
TRACKERS = sorted(ENVIRONMENTS.keys() - {"codecarbon", *test_lives.TRACKERS})
STATUS = {
    "tensorboard": ("finished", "failed: CallbackError"),
    "wandb": ("finished 0", "failed 1"),
    "mlflow": ("FINISHED", "FAILED"),
}
ARTIFACTS = {
    "mlflow": ["checkpoint-10", "checkpoint-20", "parameters.json"],
}


def train(tracker: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "train.py"), tracker, "out", *options]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment(tracker, folder), capture_output=True, text=True, timeout=300
    )


def read_back(tracker: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "read_back.py"), tracker, str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=environment(tracker, folder), capture_output=True, text=True, timeout=300, check=True
    )
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def is_whole(points: list[list[float]]) -> bool:
    """Whether each of the 20 steps has its loss, once."""
    return [step for step, _ in points] == list(range(1, 21)) and all(
        value == pytest.approx(1 / step, rel=1e-6) for step, value in points
    )


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_reads_back_from_the_trackers_own_library(tracker: str, tmp_path: Path) -> None:
    done = train(tracker, tmp_path)
    assert done.returncode == 0, done.stderr
    found = read_back(tracker, tmp_path)
    assert is_whole(found["points"]), found["points"]
    assert str(found["params"]["max_steps"]) == "20"
    assert str(found["params"]["width"]) == "3"
    assert found["status"] == STATUS[tracker][0]
    assert found["artifacts"] == ARTIFACTS.get(tracker, found["artifacts"])


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_resumed_run_goes_on_in_the_same_one_with_each_step_once(tracker: str, tmp_path: Path) -> None:
    failed = train(tracker, tmp_path, "--fail-at", "15")
    assert "as the test asked" in failed.stderr
    assert read_back(tracker, tmp_path)["status"].startswith(STATUS[tracker][1])
    resumed = train(tracker, tmp_path, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    found = read_back(tracker, tmp_path)
    assert found["runs"] in (1, None)  # None: its offline format keeps each process apart
    assert is_whole(found["points"]), found["points"]
    assert found["status"] == STATUS[tracker][0]
