"""A service that refuses, fails or hangs stops a run before its first step, within the limit, with what to check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trackers.environments import environment
from tests.trackers.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

SCRIPT = Path(__file__).with_name("starts.py")
MODES = ("401", "500", "hang")
VARIABLES = {
    "wandb": {"WANDB_MODE": "online", "WANDB_BASE_URL": "{address}", "WANDB_API_KEY": "k" * 40},
    "clearml": {
        "CLEARML_OFFLINE_MODE": "0",
        "CLEARML_API_HOST": "{address}",
        "CLEARML_API_ACCESS_KEY": "a",
        "CLEARML_API_SECRET_KEY": "s",
    },
    "swanlab": {"SWANLAB_MODE": "cloud", "SWANLAB_API_HOST": "{address}", "SWANLAB_API_KEY": "k" * 21},
    "comet_ml": {"COMET_MODE": "online", "COMET_URL_OVERRIDE": "{address}", "COMET_API_KEY": "k" * 25},
}
KEYS = {
    "wandb": "WANDB_API_KEY",
    "clearml": "CLEARML_API_ACCESS_KEY",
    "swanlab": "SWANLAB_API_KEY",
    "comet_ml": "COMET_API_KEY",
}


def begin(tracker: str, mode: str, folder: Path) -> subprocess.Popen[str]:
    """Begin a run with the real client, whose server is a stand-in that answers so to everything."""
    folder.mkdir()
    address = f"http://127.0.0.1:{Service(folder, mode=mode).port}"
    variables = {name: value.format(address=address) for name, value in VARIABLES[tracker].items()}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), tracker, "--as-a-run"],
        cwd=folder,
        env={**environment(tracker, folder), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("tracker", sorted(VARIABLES))
def test_a_service_that_does_not_let_a_run_begin_is_said_with_what_to_check(tracker: str, tmp_path: Path) -> None:
    processes = {mode: begin(tracker, mode, tmp_path / mode) for mode in MODES}
    try:
        said = {mode: process.communicate(timeout=150)[0] for mode, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    for mode, text in said.items():
        message = json.loads(text.splitlines()[-1])
        expected = "BASE_URL" if (tracker, mode) == ("wandb", "hang") else KEYS[tracker]  # it is asked without a key
        assert expected in message, (mode, message)
        assert "=offline" in message or "OFFLINE_MODE=1" in message, (mode, message)
