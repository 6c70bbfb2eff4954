"""What MLflow's clients tell a real server of a run that is killed and goes on; DagsHub and Azure stand before it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.environments import environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Told:
    """What the server has of a run that was killed at step 15 and resumed."""

    tracker: str
    found: dict[str, Any]


def run(script: str, *options: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in a process of its own, where its run is."""
    command = [sys.executable, str(HERE / script), *options]
    return subprocess.run(command, check=False, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)


def read_back(server: str, experiment: str, folder: Path) -> dict[str, Any]:
    """Ask the server itself, with MLflow's client in a fresh process."""
    variables = {"MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_NAME": experiment}
    done = run(
        "read_back.py", "mlflow", str(folder), folder=folder, variables=environment("mlflow", folder) | variables
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def train_twice(tracker: str, folder: Path, *variables: dict[str, str]) -> None:
    """Kill a run at step 15, then have another process go on with it, each with its variables."""
    first, second = (environment(tracker, folder) | own for own in (variables[0], variables[-1]))
    killed = run("train.py", tracker, "out", "--odd", "--kill-at", "15", "--told-first", folder=folder, variables=first)
    assert killed.returncode == -9, killed.stderr
    resumed = run("train.py", tracker, "out", "--odd", "--resume", folder=folder, variables=second)
    assert resumed.returncode == 0, resumed.stderr


def told_mlflow(server: str, folder: Path) -> Told:
    train_twice("mlflow", folder, {"MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_NAME": "mlflow"})
    return Told("mlflow", read_back(server, "mlflow", folder))


@pytest.fixture(scope="module", params=["mlflow"])
def told(request: pytest.FixtureRequest, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Train once for each tracker: its library takes longer to be imported than a test to look."""
    ways = {"mlflow": told_mlflow}
    return ways[request.param](mlflow_server, tmp_path_factory.mktemp(request.param))


def test_the_server_has_each_step_once_in_one_run(told: Told) -> None:
    points = told.found["points"]
    assert [step for step, _ in points] == list(range(1, 21))
    assert [value for _, value in points] == pytest.approx([1 / step for step in range(1, 21)], rel=1e-6)
    assert told.found["runs"] == 1


def test_the_server_has_the_arguments_and_the_models_configuration(told: Told) -> None:
    params = told.found["params"]
    assert (params["max_steps"], params["width"]) == ("20", "3")


def test_the_server_knows_that_the_run_is_finished(told: Told) -> None:
    assert told.found["status"] == "finished"


def test_the_server_keeps_folders_and_what_is_to_be_seen(told: Told) -> None:
    assert "notes" in told.found["artifacts"]
    assert told.found["media"] == ["picture", "sample", "weights"]


def test_the_server_keeps_checkpoints(told: Told) -> None:
    assert [name for name in told.found["artifacts"] if name != "notes"] == ["checkpoint-10", "checkpoint-20"]
