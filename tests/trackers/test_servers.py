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
from tests.trackers.servers import Front, asked
from tests.trackers.test_http_faults import WORKSPACE, make_certificate, token

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Told:
    """What the server has of a run that was killed at step 15 and resumed."""

    tracker: str
    found: dict[str, Any]
    front: Front | None = None


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


def told_azure(server: str, folder: Path) -> Told:
    """Two jobs of a workspace: each is given a run of its own by it; the second is to go on with that of the first."""
    front = Front(server, make_certificate(folder))
    experiment_id = asked(server, "experiments/create", name="azure_ml")["experiment_id"]
    jobs = [asked(server, "runs/create", experiment_id=experiment_id)["run"]["info"]["run_id"] for _ in range(2)]
    job = {
        "MLFLOW_TRACKING_URI": f"azureml://127.0.0.1:{front.port}/mlflow/v1.0/{WORKSPACE}",
        "MLFLOW_TRACKING_TOKEN": token(),
        "MLFLOW_EXPERIMENT_NAME": "azure_ml",
        "MLFLOW_EXPERIMENT_ID": experiment_id,
        "REQUESTS_CA_BUNDLE": str(folder / "both.pem"),
        "HF_MLFLOW_LOG_ARTIFACTS": "1",
    }
    train_twice("azure_ml", folder, *({**job, "MLFLOW_RUN_ID": run_id} for run_id in jobs))
    asked(server, "runs/delete", run_id=jobs[1])  # what was told to it would be missing
    return Told("azure_ml", read_back(server, "azure_ml", folder), front)


def told_dagshub(server: str, folder: Path) -> Told:
    front = Front(server)
    variables = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{front.port}/me/demo.mlflow",
        "MLFLOW_EXPERIMENT_NAME": "dagshub",
        "DAGSHUB_CLIENT_HOST": f"http://127.0.0.1:{front.port}",
        "DAGSHUB_USER_TOKEN": "k" * 20,
        "HF_DAGSHUB_LOG_ARTIFACTS": "1",
        "HF_DAGSHUB_MODEL_NAME": "tiny",
        "BRANCH": "trials",
    }
    train_twice("dagshub", folder, variables)
    return Told("dagshub", read_back(server, "dagshub", folder), front)


@pytest.fixture(scope="module", params=["mlflow", "azure_ml", "dagshub"])
def told(request: pytest.FixtureRequest, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Train once for each tracker: its library takes longer to be imported than a test to look."""
    ways = {"mlflow": told_mlflow, "azure_ml": told_azure, "dagshub": told_dagshub}
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


def test_the_server_keeps_what_is_to_be_seen(told: Told) -> None:
    assert told.found["media"] == ["picture", "sample", "weights"]


def test_folders_and_checkpoints_are_kept_by_the_server_or_in_the_repository(told: Told) -> None:
    kept = ["checkpoint-10", "checkpoint-20", "notes"]
    assert told.found["artifacts"] == ([] if told.tracker == "dagshub" else kept)
    if told.tracker == "dagshub":
        assert told.front is not None
        assert {str(Path(path).parent) for path in told.front.files} == {
            f"trials/artifacts/tiny/{name}" for name in (*kept, "model")
        }
        assert told.front.files["trials/artifacts/tiny/notes/note.txt"] == b"kept"


def test_what_stands_before_the_server_is_asked_at_its_own_address_with_the_key(told: Told) -> None:
    if told.front is None:
        return
    place, key = {
        "azure_ml": (f"/mlflow/v2.0/{WORKSPACE}", "Bearer ey"),
        "dagshub": ("/me/demo.mlflow", "Basic "),
    }[told.tracker]
    assert told.front.paths == {place}
    assert any(sent is not None and sent.startswith(key) for sent in told.front.keys)
    assert None not in told.front.keys
