"""A wrong setting that the user named is said at the start, with what to set; nothing is asked, and nothing hangs."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trackers.environments import environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent
NOBODY = "http://127.0.0.1:9"
"""An address of this machine where no server listens."""


def token(address: str) -> str:
    """Return what Neptune's client takes for a token."""
    return base64.b64encode(json.dumps({"api_address": address}).encode()).decode()


CASES: dict[str, list[tuple[dict[str, str | None], str | None]]] = {
    "comet_ml": [
        ({"COMET_MODE": None}, "COMET_API_KEY"),
        ({"COMET_MODE": "sideways"}, "get_or_create"),
        ({"COMET_START_MODE": "sideways"}, "get_or_create"),
        ({"COMET_MODE": "get"}, "COMET_API_KEY"),
        ({"COMET_MODE": "online", "COMET_API_KEY": "k" * 25, "COMET_URL_OVERRIDE": NOBODY}, "COMET_URL_OVERRIDE"),
        ({"COMET_MODE": "create", "COMET_START_ONLINE": "0"}, None),
        ({"COMET_MODE": "disabled"}, None),
    ],
    "clearml": [
        ({"CLEARML_OFFLINE_MODE": None}, "CLEARML_API_ACCESS_KEY"),
        (
            {
                "CLEARML_OFFLINE_MODE": "0",
                "CLEARML_API_ACCESS_KEY": "a",
                "CLEARML_API_SECRET_KEY": "s",
                "CLEARML_API_HOST": NOBODY,
            },
            "CLEARML_API_HOST",
        ),
    ],
    "swanlab": [
        ({"SWANLAB_MODE": None}, "SWANLAB_API_KEY"),
        ({"SWANLAB_MODE": "sideways"}, "offline"),
        ({"SWANLAB_MODE": "cloud", "SWANLAB_API_KEY": "k", "SWANLAB_API_HOST": NOBODY}, "SWANLAB_API_HOST"),
        ({"SWANLAB_MODE": "disabled"}, None),
    ],
    "neptune": [
        ({"NEPTUNE_MODE": None}, "closed on 5 March 2026"),
        ({"NEPTUNE_MODE": "async", "NEPTUNE_API_TOKEN": token("https://app.neptune.ai")}, "closed on 5 March 2026"),
        ({"NEPTUNE_MODE": "async", "NEPTUNE_API_TOKEN": token(NOBODY)}, "NEPTUNE_API_TOKEN"),
        ({"NEPTUNE_MODE": "async", "NEPTUNE_API_TOKEN": "words"}, "NEPTUNE_API_TOKEN"),
        ({"NEPTUNE_MODE": "sideways"}, "offline"),
        ({"NEPTUNE_LOG_CHECKPOINTS": "sideways"}, "'last'"),
        ({"NEPTUNE_MODE": "debug"}, None),
    ],
    "dvclive": [({"HF_DVCLIVE_LOG_MODEL": "sideways"}, "'all'"), ({"HF_DVCLIVE_LOG_MODEL": "true"}, None)],
    "flyte": [({}, "@task(enable_deck=True)")],
    "codecarbon": [({"CODECARBON_COUNTRY_ISO_CODE": "nowhere"}, "CODECARBON_COUNTRY_ISO_CODE")],
    "wandb": [
        ({"WANDB_MODE": "online"}, "WANDB_API_KEY"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": NOBODY}, "WANDB_BASE_URL"),
        ({"WANDB_PROJECT": "a/b"}, "Invalid project name"),
        ({"WANDB_LOG_MODEL": "sideways"}, "'checkpoint'"),
        ({"WANDB_WATCH": "sideways"}, "'gradients'"),
        ({"WANDB_MODE": "online", "WANDB_DISABLED": "true"}, None),
    ],
    "mlflow": [
        ({"MLFLOW_TRACKING_URI": NOBODY}, "MLFLOW_TRACKING_URI"),
        ({"MLFLOW_RUN_ID": "nothing"}, "nothing"),
        ({"MLFLOW_TAGS": "words"}, "MLFLOW_TAGS"),
        ({"MLFLOW_MAX_LOG_PARAMS": "many"}, "MLFLOW_MAX_LOG_PARAMS"),
    ],
    "dagshub": [
        ({}, "MLFLOW_TRACKING_URI"),
        ({"MLFLOW_TRACKING_URI": f"{NOBODY}/me/demo.mlflow"}, "MLFLOW_TRACKING_URI"),
        ({"MLFLOW_TRACKING_URI": f"{NOBODY}/me/demo.mlflow", "HF_DAGSHUB_LOG_ARTIFACTS": "1"}, "DAGSHUB_USER_TOKEN"),
    ],
    "azure_ml": [({}, "azureml://")],
    "trackio": [({"TRACKIO_SPACE_ID": "someone/space"}, "TRACKIO_SPACE_ID")],
}


@pytest.mark.parametrize("tracker", sorted(CASES))
def test_a_wrong_setting_is_said_at_the_start_with_what_to_set(tracker: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "starts.py"), tracker],
        check=False,
        input=json.dumps([case for case, _ in CASES[tracker]]),
        cwd=tmp_path,
        env=environment(tracker, tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for (case, expected), error in zip(CASES[tracker], json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert (error is None) == (expected is None), (case, error)
        assert expected is None or expected in error, (case, error)
