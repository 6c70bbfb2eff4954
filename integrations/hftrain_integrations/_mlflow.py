"""What the trackers on MLflow share."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker
from hftrain.plugin_api.values import flat

logger = logging.getLogger(__name__)

_BATCH = 100
"""Parameters in one request; older servers refuse more."""
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}
_TRUE = ("1", "true", "yes", "on")


class MlflowRun(Tracker):
    """Logs to a run by its id, with a client of its own: what is active in another thread does not matter."""

    api: ClassVar[int] = 1
    renames_metrics: ClassVar[bool] = False

    _client: Any = None
    _run_id = ""
    _is_ours = True
    _keeps_checkpoints = False

    def start(self, run: Run) -> str | None:
        """Find or make the run, and log parameters and tags.

        Raises:
            ConnectionError: the server cannot be reached.
            ValueError: an environment variable cannot be read.
        """
        # One request takes minutes to fail by default; the thread that waits here is given seconds.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        import mlflow

        tags = _tags()
        self._keeps_checkpoints = _is_true("HF_MLFLOW_LOG_ARTIFACTS")
        self._client = mlflow.MlflowClient()
        self._run_id = self._find_or_make(run, mlflow)
        if run.remote_id is None:
            self._log_params(run)
        for name, value in {**tags, "hftrain.run_id": run.run_id}.items():
            self._client.set_tag(self._run_id, name, value)
        return self._run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step, in one request."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()]
        )

    def log_media(self, media: Media) -> None:
        """Keep the file, in a folder of its kind."""
        folder = f"media/{media.name}"
        _, ending = os.path.splitext(media.path)
        self._client.log_artifact(self._run_id, media.path, folder)
        logger.debug("%s at step %d is %s%s", media.name, media.step, folder, ending)

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder or a file; a checkpoint only if HF_MLFLOW_LOG_ARTIFACTS asks for it."""
        if artifact.is_checkpoint and not self._keeps_checkpoints:
            return
        if os.path.isdir(artifact.path):
            self._client.log_artifacts(self._run_id, artifact.path, artifact.name)
        else:
            self._client.log_artifact(self._run_id, artifact.path, artifact.name)

    def finish(self, status: Status, error: str | None) -> None:
        """Say how the run ended, unless somebody else began it."""
        if error is not None:
            self._client.set_tag(self._run_id, "error", error[:5000])
        if status == "pruned":
            self._client.set_tag(self._run_id, "pruned", "true")
        if self._is_ours:
            self._client.set_terminated(self._run_id, _STATUS[status])

    # ---- inside -------------------------------------------------------------------------------------

    def _find_or_make(self, run: Run, mlflow: Any) -> str:
        named = run.remote_id or os.environ.get("MLFLOW_RUN_ID")
        if named:
            self._client.update_run(named, status="RUNNING")
            return str(named)
        active = mlflow.active_run()
        if active is not None and not _is_true("MLFLOW_NESTED_RUN"):
            self._is_ours = False
            return str(active.info.run_id)
        tags = {} if active is None else {"mlflow.parentRunId": active.info.run_id}
        made = self._client.create_run(self._experiment_id(mlflow), run_name=run.trial or run.name, tags=tags)
        return str(made.info.run_id)

    def _experiment_id(self, mlflow: Any) -> str:
        if os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if name is None:
            return str(mlflow.tracking.fluent._get_experiment_id())  # what the user set, or the default one
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id) if found is not None else str(self._client.create_experiment(name))

    def _log_params(self, run: Run) -> None:
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

        values: dict[str, Any] = {**run.model, **run.arguments, **run.trial_params}
        if _is_true("MLFLOW_FLATTEN_PARAMS"):
            values = flat(values)
        params, left_out = [], []
        for name, value in values.items():
            text = str(value)
            if len(text) > MAX_PARAM_VAL_LENGTH:
                left_out.append(name)
            else:
                params.append(Param(name, text))
        most = _count("MLFLOW_MAX_LOG_PARAMS")
        if left_out:
            logger.warning(
                "MLflow takes parameters of %d characters; these are longer, and are in parameters.json only: %s.",
                MAX_PARAM_VAL_LENGTH,
                ", ".join(left_out),
            )
        params = params if most is None else params[:most]
        for begin in range(0, len(params), _BATCH):
            self._client.log_batch(self._run_id, params=params[begin : begin + _BATCH])
        self._client.log_dict(self._run_id, {"arguments": run.arguments, "model": run.model}, "parameters.json")


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in _TRUE


def _count(name: str) -> int | None:
    text = os.environ.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r} is no number")
    return int(text)


def _tags() -> dict[str, str]:
    text = os.environ.get("MLFLOW_TAGS")
    if not text:
        return {}
    try:
        tags = json.loads(text)
    except ValueError as error:
        raise ValueError(f"MLFLOW_TAGS={text!r} is no JSON: {error}") from error
    if not isinstance(tags, dict):
        raise ValueError(f"MLFLOW_TAGS={text!r} is no JSON object")
    return {str(name): str(value) for name, value in tags.items()}
