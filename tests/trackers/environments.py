"""What each tracker's client needs to run without a network, in a folder of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "tensorboard": {},
    "wandb": {
        "WANDB_MODE": "offline",
        "WANDB_CACHE_DIR": "{folder}/cache",
        "WANDB_CONFIG_DIR": "{folder}/config",
        "WANDB_DATA_DIR": "{folder}/data",
        "WANDB_DIR": "{folder}",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB__DISABLE_STATS": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_LOG_MODEL": "checkpoint",
    },
    "mlflow": {
        "MLFLOW_TRACKING_URI": "sqlite:///{folder}/store.db",
        **MLFLOW,
        "HF_MLFLOW_LOG_ARTIFACTS": "1",
    },
    "dagshub": {"DAGSHUB_QUIET": "1", "DAGSHUB_DISABLE_UPDATE_CHECK": "1", **MLFLOW},
    "azure_ml": {**MLFLOW},
    "comet_ml": {
        "COMET_MODE": "offline",
        "COMET_PROJECT_NAME": "demo",
        "COMET_OFFLINE_DIRECTORY": "{folder}/comet",
        "COMET_DISABLE_AUTO_LOGGING": "1",
        "COMET_AUTO_LOG_GIT_METADATA": "false",
        "COMET_AUTO_LOG_CODE": "false",
        "COMET_AUTO_LOG_ENV_DETAILS": "false",
        "COMET_LOGGING_CONSOLE": "ERROR",
        "COMET_LOG_ASSETS": "1",
    },
    "clearml": {
        "CLEARML_OFFLINE_MODE": "1",
        "CLEARML_PROJECT": "demo",
        "CLEARML_TASK": "task-of-mine",
        "CLEARML_CACHE_DIR": "{folder}/cache",
        "CLEARML_LOG_LEVEL": "ERROR",
        "CLEARML_SUPPRESS_UPDATE_MESSAGE": "1",
        "CLEARML_LOG_MODEL": "1",
    },
    "flyte": {"TMPDIR": "{folder}", "FLYTE_LOCAL_CACHE_ENABLED": "false"},
    "codecarbon": {"CODECARBON_COUNTRY_ISO_CODE": "FRA", "CODECARBON_LOG_LEVEL": "error"},
    "neptune": {
        "NEPTUNE_MODE": "offline",
        "NEPTUNE_PROJECT": "ws/demo",
        "NEPTUNE_LOG_CHECKPOINTS": "same",
        "NEPTUNE_DATA_DIRECTORY": "{folder}/.neptune",
    },
    "swanlab": {
        "SWANLAB_MODE": "offline",
        "SWANLAB_LOG_DIR": "{folder}/swanlog",
        "SWANLAB_SAVE_DIR": "{folder}/save",
        "SWANLAB_PROJECT": "demo",
    },
    "trackio": {
        "TRACKIO_DIR": "{folder}/trackio",
        "TRACKIO_PROJECT": "demo",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TRACKIO_SHOW_DASHBOARD": "0",
        "TRACKIO_LOG_MODEL": "1",
        "HF_HOME": "{folder}/hub",
    },
    "dvclive": {
        "DVC_NO_ANALYTICS": "true",
        "DVCLIVE_LOGLEVEL": "ERROR",
        "DVC_STUDIO_OFFLINE": "true",
        "HF_DVCLIVE_LOG_MODEL": "all",
    },
}


KEEPS_CHECKPOINTS = {
    "clearml": "CLEARML_LOG_MODEL",
    "comet_ml": "COMET_LOG_ASSETS",
    "dvclive": "HF_DVCLIVE_LOG_MODEL",
    "mlflow": "HF_MLFLOW_LOG_ARTIFACTS",
    "neptune": "NEPTUNE_LOG_CHECKPOINTS",
    "trackio": "TRACKIO_LOG_MODEL",
    "wandb": "WANDB_LOG_MODEL",
}
"""The variable that has a tracker keep checkpoints; without it, it keeps none."""


def environment(tracker: str, folder: Path) -> dict[str, str]:
    """The variables of a process that runs this tracker in ``folder``, which is its home too."""
    known = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR")
    kept = {name: os.environ[name] for name in known if name in os.environ}
    own = {name: value.format(folder=folder) for name, value in ENVIRONMENTS[tracker].items()}
    fixed = {"HOME": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VIRTUAL_ENV": sys.prefix}
    return {**kept, **fixed, **own}
