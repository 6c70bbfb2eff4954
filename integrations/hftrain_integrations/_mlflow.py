"""What the trackers on MLflow share."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from hftrain.plugin_api.spool import Event
from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker
from hftrain.plugin_api.values import flat

logger = logging.getLogger(__name__)

URI = "MLFLOW_TRACKING_URI"
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_START_S, _ANSWER_S = 6, 10
_LONG_S = 120
"""A server may copy a checkpoint elsewhere before it answers; this is the client's own limit."""
_set_by_us: list[str] = []
"""Values of it that are no user's."""
_BATCH = 100
"""Parameters in one request; older servers refuse more."""
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "FINISHED"}
_TRUE = ("1", "true", "yes", "on")
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)
_GROUP, _IS_GROUP = "hftrain.group", "hftrain.is_group"


class MlflowRun(Tracker):
    """Logs to a run by its id, with a client of its own: what is active in another thread does not matter."""

    api: ClassVar[int] = 1
    renames_metrics: ClassVar[bool] = False

    _client: Any = None
    _run_id = ""
    _is_ours = True
    _keeps_checkpoints = False
    _time: float | None = None

    def __init__(self) -> None:
        # MLflow keeps the active run by thread, and this is the one that trains.
        mlflow = sys.modules.get("mlflow")
        active = mlflow.active_run() if mlflow is not None else None
        self._active_id: str | None = None if active is None else active.info.run_id

    def load(self) -> None:
        """Import MLflow, and have a store that is a file make its tables: seconds, and nobody is asked."""
        import mlflow

        if mlflow.get_tracking_uri().startswith(("sqlite:", "file:")):
            mlflow.MlflowClient().search_experiments(max_results=1)

    def start(self, run: Run) -> str | None:
        """Find or make the run, and log parameters and tags.

        Raises:
            ConnectionError: the server or the store does not answer, or refuses.
            ValueError: an environment variable cannot be read.
        """
        import mlflow

        tags, most = _tags(), _count("MLFLOW_MAX_LOG_PARAMS")
        self._keeps_checkpoints = is_true("HF_MLFLOW_LOG_ARTIFACTS")
        with _short_timeouts(_LONG_S if self._keeps_checkpoints else _ANSWER_S):
            try:
                self._client = mlflow.MlflowClient()
                self._run_id = self._find_or_make(run, mlflow)
                self._log_params(run, most=most)
                for name, value in {**tags, "hftrain.run_id": run.run_id}.items():
                    self._client.set_tag(self._run_id, name, value)
            except Exception as error:
                raise ConnectionError(
                    f"{URI}={mlflow.get_tracking_uri()!r} cannot be used ({error}); start its server, or set {URI} to "
                    "the address of one, or to a file such as sqlite:///mlflow.db"
                ) from error
        return self._run_id

    def deliver(self, event: Event, *, folder: str = "") -> None:
        """Hand an event on, with its own time: MLflow takes a point that is told again with the same time for one."""
        self._time = event.time
        super().deliver(event, folder=folder)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step, in one request."""
        from mlflow.entities import Metric

        at = round((self._time or time.time()) * 1000)
        points = [Metric(self._name(name), float(value), at, step) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=points)

    def log_media(self, media: Media) -> None:
        """Keep the file; a picture as an image that the page shows by its step."""
        if media.kind == "image" and hasattr(self._client, "log_image"):
            import numpy as np
            from PIL import Image

            with Image.open(media.path) as image:
                pixels = np.asarray(image.convert("RGBA"))
            key = self._name(media.name).replace(":", "_")
            self._client.log_image(self._run_id, pixels, key=key, step=media.step, synchronous=True)
        else:
            self._client.log_artifact(self._run_id, media.path, f"media/{self._name(media.name)}")

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder or a file; a checkpoint only if HF_MLFLOW_LOG_ARTIFACTS asks for it."""
        if artifact.is_checkpoint and not self._keeps_checkpoints:
            return
        if "://" in artifact.path:  # it is kept already, elsewhere
            self._client.set_tag(self._run_id, f"artifact.{self._name(artifact.name)}", artifact.path)
        elif os.path.isdir(artifact.path):
            self._client.log_artifacts(self._run_id, artifact.path, self._name(artifact.name))
        else:
            self._client.log_artifact(self._run_id, artifact.path, self._name(artifact.name))

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
        is_nested = is_true("MLFLOW_NESTED_RUN")
        if self._active_id is not None and named in (None, self._active_id) and not is_nested:
            self._is_ours = False
            return self._active_id
        if named:
            self._client.update_run(named, status="RUNNING")
            return str(named)
        experiment_id = self._experiment_id(mlflow)
        parent = self._active_id if run.group is None else self._group_run(experiment_id, run.group)
        tags = {} if run.group is None else {_GROUP: run.group}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        made = self._client.create_run(experiment_id, run_name=run.trial or run.name, tags=tags)
        return str(made.info.run_id)

    def _group_run(self, experiment_id: str, group: str) -> str:
        """Return the run under which the trials of a search stand; the first trial makes it."""
        if self._active_id is not None:
            return self._active_id
        quoted = group.replace("'", "\\'")
        found = self._client.search_runs(
            [experiment_id], f"tags.`{_GROUP}` = '{quoted}' and tags.`{_IS_GROUP}` = 'true'", max_results=1
        )
        if found:
            return str(found[0].info.run_id)
        made = self._client.create_run(experiment_id, run_name=group, tags={_GROUP: group, _IS_GROUP: "true"})
        self._client.set_terminated(made.info.run_id, "FINISHED")  # nobody knows which trial is the last
        return str(made.info.run_id)

    def _experiment_id(self, mlflow: Any) -> str:
        if os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name:
            return str(mlflow.tracking.fluent._get_experiment_id())  # what the user set, or the default one
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id) if found is not None else str(self._client.create_experiment(name))

    def _log_params(self, run: Run, *, most: int | None) -> None:
        """Log what the run has not yet: MLflow refuses to change a parameter."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

        known = self._client.get_run(self._run_id).data.params
        values: dict[str, Any] = {**run.model, **run.arguments, **run.trial_params}
        if is_true("MLFLOW_FLATTEN_PARAMS"):
            values = flat(values)
        texts = {self._name(name): str(value) for name, value in list(values.items())[:most]}
        too_long = [name for name, text in texts.items() if len(text) > MAX_PARAM_VAL_LENGTH]
        if too_long:
            logger.warning(
                "MLflow takes parameters of %d characters; these are longer, and are in parameters.json only: %s.",
                MAX_PARAM_VAL_LENGTH,
                ", ".join(too_long[:10]),
            )
        params = [Param(name, text) for name, text in texts.items() if name not in {*known, *too_long}]
        for begin in range(0, len(params), _BATCH):
            self._client.log_batch(self._run_id, params=params[begin : begin + _BATCH])
        if run.remote_id is None:
            facts = {"arguments": run.arguments, "model": run.model, "environment": run.environment}
            self._client.log_dict(self._run_id, facts, "parameters.json")

    def _name(self, name: str) -> str:
        """Return a name that MLflow takes: letters, digits and ``_-. :/``, and a path that stays inside."""
        clean = _NOT_IN_NAMES.sub("_", name)
        if clean != name:
            self._warn_once(name, f"{name!r} is told as {clean!r}, since MLflow takes letters, digits and _-. :/")
        return "/".join(part for part in clean.split("/") if part.strip(". "))[:250] or "_"


def is_true(name: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(name, "").lower() in _TRUE


@contextmanager
def _short_timeouts(later_s: int) -> Iterator[None]:
    """Have requests fail in seconds, unless the user says otherwise; in ``later_s`` when the run has begun.

    What is set is not changed any more after that: other threads read the environment too. A request is tried twice,
    rather than for four minutes; the tracker's thread tries again by itself.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    if os.environ.get(_TIMEOUT) not in (None, *_set_by_us):
        yield
        return
    _set_by_us[:] = [str(_START_S), str(later_s)]
    os.environ[_TIMEOUT] = str(_START_S)
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = str(later_s)


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
