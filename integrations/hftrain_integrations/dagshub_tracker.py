"""DagsHub: its MLflow server, and its repository for checkpoints."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from urllib.parse import urlsplit

from hftrain.plugin_api.tracker import Artifact, Run
from hftrain_integrations._mlflow import MlflowRun

_TRUE = ("1", "true", "yes", "on")


class DagshubTracker(MlflowRun):
    """Logs to the MLflow server of a DagsHub repository.

    Environment:
        MLFLOW_TRACKING_URI: ``https://dagshub.com/OWNER/REPOSITORY.mlflow``.
        DAGSHUB_USER_TOKEN: the key.
        HF_DAGSHUB_LOG_ARTIFACTS: "1" uploads every checkpoint to the repository.
        HF_DAGSHUB_MODEL_NAME: the folder there, "main" by default.
        BRANCH: the branch, "main" by default.
        The others: as of MLflow.
    """

    requires: ClassVar[tuple[str, ...]] = ("dagshub>=0.3", "mlflow>=2.9")
    extra: ClassVar[str] = "dagshub"

    _folder: Any = None

    def unavailable_because(self) -> str | None:
        """Say that no repository is named."""
        return None if _repository() is not None else _HINT

    def start(self, run: Run) -> str | None:
        """Begin or go on with the run.

        Raises:
            ValueError: MLFLOW_TRACKING_URI names no repository.
        """
        repository = _repository()
        if repository is None:
            raise ValueError(_HINT)
        if os.environ.get("HF_DAGSHUB_LOG_ARTIFACTS", "").lower() in _TRUE:
            from dagshub.upload import Repo

            owner, name = repository
            branch = os.environ.get("BRANCH", "main")
            folder = os.environ.get("HF_DAGSHUB_MODEL_NAME", "main")
            self._folder = Repo(owner=owner, name=name, branch=branch).directory(f"artifacts/{folder}")
        return super().start(run)

    def log_artifact(self, artifact: Artifact) -> None:
        """Upload a folder to the repository; a checkpoint only if HF_DAGSHUB_LOG_ARTIFACTS asks for it."""
        if self._folder is not None:
            self._folder.add_dir(artifact.path, commit_message=f"{artifact.name} of step {artifact.step}")
        elif not artifact.is_checkpoint:
            super().log_artifact(artifact)


_HINT = "set MLFLOW_TRACKING_URI to https://dagshub.com/OWNER/REPOSITORY.mlflow"


def _repository() -> tuple[str, str] | None:
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).path.strip("/").split("/")
    if len(parts) != 2 or not parts[1].endswith(".mlflow"):
        return None
    return parts[0], parts[1].removesuffix(".mlflow")
