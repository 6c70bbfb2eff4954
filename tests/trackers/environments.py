"""What each tracker's client needs to run without a network, in a folder of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "HF_MLFLOW_LOG_ARTIFACTS": "1",
    },
    "dvclive": {"DVC_NO_ANALYTICS": "true", "DVCLIVE_LOGLEVEL": "ERROR", "DVC_STUDIO_OFFLINE": "true"},
}


def environment(tracker: str, folder: Path) -> dict[str, str]:
    """The variables of a process that runs this tracker in ``folder``, which is its home too."""
    known = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR")
    kept = {name: os.environ[name] for name in known if name in os.environ}
    own = {name: value.format(folder=folder) for name, value in ENVIRONMENTS[tracker].items()}
    fixed = {"HOME": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VIRTUAL_ENV": sys.prefix}
    return {**kept, **fixed, **own}
