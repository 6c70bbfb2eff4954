"""MLflow's variables, and runs that the user begins: three runs are trained in one process, a real server is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.environments import environment
from tests.trackers.servers import asked

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

SCRIPT = Path(__file__).with_name("active_runs.py")


@dataclass(frozen=True)
class Kept:
    """What the server has of a run."""

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    last: dict[str, tuple[int, float]]
    """The last point of each metric: its step and value."""


@pytest.fixture(scope="module")
def printed(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the script knows of its runs."""
    folder = tmp_path_factory.mktemp("active")
    variables = {"MLFLOW_TRACKING_URI": mlflow_server, "MLFLOW_EXPERIMENT_NAME": "active"}
    variables = {**environment("mlflow", folder), **variables}
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, check=False, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    document: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return document


@pytest.fixture(scope="module")
def runs(mlflow_server: str, printed: dict[str, str]) -> dict[str, Kept]:
    """The runs of the experiment by name."""
    run = asked(mlflow_server, f"runs/get?run_id={printed['active']}")["run"]
    found = asked(mlflow_server, "runs/search", experiment_ids=[run["info"]["experiment_id"]])["runs"]
    return {one["info"]["run_name"]: kept(one["info"], one["data"]) for one in found}


def kept(info: dict[str, Any], data: dict[str, Any]) -> Kept:
    params, tags = ({row["key"]: row["value"] for row in data.get(kind, ())} for kind in ("params", "tags"))
    last = {row["key"]: (row["step"], row["value"]) for row in data.get("metrics", ())}
    return Kept(info["run_id"], info["status"], params, tags, last)


def test_there_is_no_run_but_the_users_two_and_the_nested_one(runs: dict[str, Kept]) -> None:
    assert sorted(runs) == ["first-run", "mine", "there"]


@pytest.mark.parametrize("name", ["first-run", "mine", "there"])
def test_each_has_the_steps_that_were_trained_in_it(runs: dict[str, Kept], name: str) -> None:
    assert runs[name].last["loss"] == (20, pytest.approx(0.05, rel=1e-6))


def test_the_run_that_is_active_where_training_begins_is_told_and_stays_active(
    runs: dict[str, Kept], printed: dict[str, str]
) -> None:
    assert runs["mine"].run_id == printed["active"]
    assert printed["status"] == "RUNNING"
    assert (runs["mine"].status, runs["mine"].last["after"]) == ("FINISHED", (0, 1.0))


def test_tags_are_those_of_the_variable(runs: dict[str, Kept]) -> None:
    assert runs["mine"].tags["release"] == "1.2"
    assert "release" not in runs["there"].tags


def test_parameters_are_flat_where_the_variable_says_so(runs: dict[str, Kept]) -> None:
    params = runs["mine"].params
    assert {name: params.get(name) for name in ("many", "many/p0", "many/p1999")} == {
        "many": None,
        "many/p0": "0",
        "many/p1999": "1999",
    }


def test_a_nested_run_stands_under_the_active_one(runs: dict[str, Kept]) -> None:
    assert runs["first-run"].tags["mlflow.parentRunId"] == runs["mine"].run_id
    assert runs["first-run"].status == "FINISHED"


def test_no_more_parameters_than_the_variable_says(runs: dict[str, Kept]) -> None:
    assert len(runs["first-run"].params) == 3
    assert len(runs["there"].params) > 100


def test_the_run_that_the_variable_names_is_gone_on_with_and_ended(
    runs: dict[str, Kept], printed: dict[str, str]
) -> None:
    assert (runs["there"].run_id, runs["there"].status) == (printed["there"], "FINISHED")
    assert runs["there"].params["max_steps"] == "20"
