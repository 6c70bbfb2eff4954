"""DagsHub: its MLflow server, and its repository for checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from hftrain.plugin_api.tracker import Artifact, Run, Status
from hftrain_integrations._mlflow import MlflowRun, is_true


class DagshubTracker(MlflowRun):
    """Logs to the MLflow server of a DagsHub repository.

    Environment:
        MLFLOW_TRACKING_URI: ``https://dagshub.com/OWNER/REPOSITORY.mlflow``.
        DAGSHUB_USER_TOKEN: the key.
        HF_DAGSHUB_LOG_ARTIFACTS: "1" uploads every checkpoint, and the model as training left it, to the repository,
            as ``artifacts/<HF_DAGSHUB_MODEL_NAME>/checkpoint-<step>`` and ``.../model``.
        HF_DAGSHUB_MODEL_NAME: the folder there, "main" by default.
        BRANCH: the branch, "main" by default.
        The others: as of MLflow.
    """

    requires: ClassVar[tuple[str, ...]] = ("dagshub>=0.3", "mlflow>=2.9")
    extra: ClassVar[str] = "dagshub"
    hint: ClassVar[str] = "MLFLOW_TRACKING_URI and DAGSHUB_USER_TOKEN; with report_to='mlflow' it can be a file"

    _repo: Any = None
    _place = ""
    _before: Mapping[str, str | None] = MappingProxyType({})

    def unavailable_because(self) -> str | None:
        """Say that no repository is named."""
        return None if _repository() is not None else _HINT

    def takes_final_model(self) -> bool:
        """Take it if HF_DAGSHUB_LOG_ARTIFACTS asks for artifacts."""
        return is_true(_KEEPS)

    def start(self, run: Run) -> str | None:
        """Begin or go on with the run.

        Raises:
            PermissionError: there is no key to upload with; nobody is asked for one.
            ValueError: MLFLOW_TRACKING_URI names no repository.
        """
        repository = _repository()
        if repository is None:
            raise ValueError(_HINT)
        token = os.environ.get("DAGSHUB_USER_TOKEN")
        if is_true(_KEEPS):
            from dagshub.upload import Repo

            _check_token(token)
            owner, name = repository
            self._repo = Repo(owner=owner, name=name, branch=os.environ.get("BRANCH") or "main")
            self._place = f"artifacts/{os.environ.get('HF_DAGSHUB_MODEL_NAME') or 'main'}"
        if token and _USER not in os.environ:  # as dagshub.init does; MLflow reads them at each request
            self._before = {name: os.environ.get(name) for name in (_USER, _PASSWORD)}
            os.environ |= {_USER: token, _PASSWORD: token}
        try:
            return super().start(run)
        except BaseException:
            self._restore()
            raise

    def finish(self, status: Status, error: str | None) -> None:
        """Say how the run ended, and leave no key in variables that child processes get."""
        super().finish(status, error)  # one that fails is called again, and needs them then
        self._restore()

    def _restore(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before = {}

    def log_artifact(self, artifact: Artifact) -> None:
        """Upload a folder to the repository; a checkpoint only if HF_DAGSHUB_LOG_ARTIFACTS asks for it."""
        if self._repo is None:
            super().log_artifact(artifact)
            return
        message = f"{artifact.name} of step {artifact.step}"
        if os.path.isdir(artifact.path):
            self._repo.directory(f"{self._place}/{artifact.name}").add_dir(artifact.path, commit_message=message)
        else:
            self._repo.upload(artifact.path, remote_path=f"{self._place}/{artifact.name}", commit_message=message)


_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_KEEPS = "HF_DAGSHUB_LOG_ARTIFACTS"
_HINT = "set MLFLOW_TRACKING_URI to https://dagshub.com/OWNER/REPOSITORY.mlflow"


def _repository() -> tuple[str, str] | None:
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).path.strip("/").split("/")
    if len(parts) != 2 or not parts[1].endswith(".mlflow"):
        return None
    return parts[0], parts[1].removesuffix(".mlflow")


def _check_token(token: str | None) -> None:
    """Refuse to go on without a key: the client would open a browser to get one."""
    if token:
        return
    from dagshub.auth import get_token

    try:
        get_token(fail_if_no_token=True)
    except Exception as error:
        raise PermissionError("no key to upload with: set DAGSHUB_USER_TOKEN, or run `dagshub login`") from error
