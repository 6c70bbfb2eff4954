"""What the variables of the environment that people know do, read back from the tracker's own library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.environments import environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent


def ran(tracker: str, folder: Path, script: str, *options: str, given: str = "") -> str:
    """Return what a script of this folder prints in a process of its own."""
    command, variables = [sys.executable, str(HERE / script), *options], environment(tracker, folder)
    return subprocess.run(
        command, check=True, input=given, cwd=folder, env=variables, capture_output=True, text=True, timeout=240
    ).stdout


def started(tracker: str, folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Start and end a run of the tracker with these variables, and read back what it kept."""
    done = ran(tracker, folder, "starts.py", tracker, given=json.dumps([variables]))
    assert json.loads(done.splitlines()[-1]) == [None]
    read = ran(tracker, folder, "read_back.py", tracker, str(folder))
    document: dict[str, Any] = json.loads(read.splitlines()[-1])
    return document


def test_the_variables_of_wandb_name_the_project_the_group_and_the_run(tmp_path: Path) -> None:
    names = {"WANDB_PROJECT": "mine", "WANDB_RUN_GROUP": "together", "WANDB_NAME": "one"}
    (tmp_path / "there").mkdir()
    found = started("wandb", tmp_path, {**names, "WANDB_DIR": str(tmp_path / "there")})
    assert (found["projects"], found["groups"], found["names"]) == (["mine"], ["together"], ["one"])
    assert os.listdir(tmp_path / "there") == ["wandb"]


def test_wandb_that_is_disabled_writes_nothing(tmp_path: Path) -> None:
    assert started("wandb", tmp_path, {"WANDB_DISABLED": "true"})["runs"] == 0


def test_the_variables_of_mlflow_name_the_experiment_and_its_tags_and_limit_parameters(tmp_path: Path) -> None:
    variables = {"MLFLOW_EXPERIMENT_NAME": "mine", "MLFLOW_TAGS": '{"release": "1.2"}', "MLFLOW_MAX_LOG_PARAMS": "0"}
    found = started("mlflow", tmp_path, variables)
    assert (found["experiments"], found["tags"]["release"], found["params"]) == (["mine"], "1.2", {})


def test_tensorboard_writes_where_its_variable_says(tmp_path: Path) -> None:
    found = started("tensorboard", tmp_path, {"TENSORBOARD_LOGGING_DIR": str(tmp_path / "logs")})
    assert found["folders"] == ["logs"]
