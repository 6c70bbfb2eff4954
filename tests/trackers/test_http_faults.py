"""What a server does wrong over HTTP costs a warning: the real clients of MLflow, against a stand-in for the server."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.environments import environment
from tests.trackers.service import FAULTS, Service

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

SCRIPT = Path(__file__).with_name("http_faults.py")
STEPS = list(range(1, 21))
AT_START = {"mlflow": ("401", "500", "hang"), "dagshub": ("401",), "azure_ml": ("401",)}
WORKSPACE = "subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
TRIED = {"mlflow": FAULTS, "dagshub": ("500", "hang", "answer_lost"), "azure_ml": ("500", "hang", "answer_lost")}
"""All of them for the client that the other two go through, and the kinds of them for what stands before it."""
each_tracker = pytest.mark.parametrize("tracker", TRIED)
each_fault = pytest.mark.parametrize(
    ("tracker", "fault"), [(tracker, fault) for tracker, faults in TRIED.items() for fault in faults]
)


@dataclass(frozen=True)
class Outcome:
    """What came of one case: in the process that trained, at the server then, and there after it was told again."""

    trained: dict[str, Any]
    told: list[int]
    later: list[int]
    status: str


@functools.cache
def outcomes(tracker: str) -> dict[str, Outcome]:
    """Train with each fault in one process, then tell what is left in another; the servers are in this one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate = make_certificate(folder) if tracker == "azure_ml" else None
        cases, services = {}, {}
        for fault in TRIED[tracker]:
            for recovers in (True, False):
                key = f"{fault}-{recovers}"
                services[key] = Service(folder / "artifacts", certificate=certificate)
                cases[key] = case_of(tracker, services[key], folder, fault=fault, recovers=recovers)
        trained = run(tracker, folder, cases)
        told = {key: service.steps("loss") for key, service in services.items()}
        for service in services.values():
            service.set_mode("ok")
        left = {key: case for key, case in cases.items() if key.endswith("False")}
        assert set(run(tracker, folder, left, "--replay").values()) == {0}
        return {
            key: Outcome(trained[key], told[key], service.steps("loss"), service.status)
            for key, service in services.items()
        }


def case_of(tracker: str, service: Service, folder: Path, *, fault: str = "", recovers: bool = False) -> dict[str, Any]:
    """What the script is told of a case: how its tracker reaches the server, and what happens there."""
    scheme = "https" if tracker == "azure_ml" else "http"
    address = f"127.0.0.1:{service.port}"
    variables = {
        "mlflow": {"MLFLOW_TRACKING_URI": f"http://{address}"},
        "dagshub": {"MLFLOW_TRACKING_URI": f"http://{address}/me/demo.mlflow", "DAGSHUB_USER_TOKEN": "k" * 20},
        "azure_ml": {
            "MLFLOW_TRACKING_URI": f"azureml://{address}/mlflow/v1.0/{WORKSPACE}",
            "MLFLOW_TRACKING_TOKEN": token(),
            "MLFLOW_RUN_ID": "r1",
            "MLFLOW_EXPERIMENT_ID": "1",
            "REQUESTS_CA_BUNDLE": str(folder / "both.pem"),
        },
    }
    quick = {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0"}
    quick["HF_MLFLOW_LOG_ARTIFACTS"] = "0"  # with it, what is silent is waited for as long as the client does
    return {
        "variables": {**variables[tracker], **quick},
        "address": f"{scheme}://{address}",
        "fault": fault,
        "recovers": recovers,
    }


def run(tracker: str, folder: Path, cases: dict[str, Any], *options: str) -> dict[str, Any]:
    """Run the script in a process of its own; that it ends, and well, is part of what is proven."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), tracker, str(folder), *options],
        check=False,
        input=json.dumps(cases),
        cwd=folder,
        env=environment(tracker, folder),
        capture_output=True,
        text=True,
        timeout=110,  # the client's own time limit of a request is 120 s: an end that waited for it is not one
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_certificate(folder: Path) -> Path:
    """Make a certificate of this machine's address, for Azure's client speaks https only."""
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


def token() -> str:
    """What Azure's client takes for a token that is valid."""
    claims = ({"alg": "none"}, {"exp": int(time.time()) + 99999, "tid": "t", "oid": "o"})
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in claims]
    return ".".join([*parts, "eHg"])


def warned(found: dict[str, Any], tracker: str, text: str) -> int:
    return len([line for line in found["warnings"] if line.startswith(tracker) and text in line])


@each_fault
def test_a_server_that_comes_back_is_told_everything_in_order_and_once(tracker: str, fault: str) -> None:
    found = outcomes(tracker)[f"{fault}-True"]
    assert (found.trained["steps"], found.trained["rows"], found.trained["error"]) == (20, STEPS, None)
    assert (found.told, found.status) == (STEPS, "FINISHED")
    assert warned(found.trained, tracker, "cannot be told") == (
        fault not in ("hang", "silent")
    )  # the client itself asks again


@each_fault
def test_one_that_stays_away_costs_a_warning_and_is_told_the_rest_later(tracker: str, fault: str) -> None:
    found = outcomes(tracker)[f"{fault}-False"]
    assert (found.trained["steps"], found.trained["rows"], found.trained["error"]) == (20, STEPS, None)
    assert found.told[:5] == STEPS[:5]
    assert found.told != STEPS
    assert (found.later, found.status) == (STEPS, "FINISHED")
    assert warned(found.trained, tracker, "hftrain replay") == 1


@each_tracker
def test_one_that_fails_at_the_start_stops_before_the_first_step(tracker: str, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path) if tracker == "azure_ml" else None
    services = {mode: Service(tmp_path, mode=mode, certificate=certificate) for mode in AT_START[tracker]}
    found = run(tracker, tmp_path, {mode: case_of(tracker, service, tmp_path) for mode, service in services.items()})
    for mode in AT_START[tracker]:
        assert found[mode]["steps"] == 0, mode
        assert f"{tracker}: " in found[mode]["error"], mode
        assert "MLFLOW_TRACKING_URI" in found[mode]["error"], found[mode]["error"]


def test_a_key_that_comet_refuses_stops_before_the_first_step(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{Service(tmp_path, mode='401').port}"
    variables = {"COMET_MODE": "online", "COMET_API_KEY": "k" * 25, "COMET_URL_OVERRIDE": address}
    found = run(
        "comet_ml", tmp_path, {"401": {"variables": variables, "address": address, "fault": "", "recovers": False}}
    )
    assert found["401"]["steps"] == 0
    assert "COMET_API_KEY" in found["401"]["error"]
