"""ClearML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status
from hftrain_integrations._reachable import begins, check_reachable
from hftrain_integrations._told_again import TellsAgain

_TRUE = ("1", "true", "yes", "on")
_FRAMEWORKS: tuple[str, ...] = (
    "hydra",
    "scikit",
    "joblib",
    "matplotlib",
    "tensorflow",
    "tensorboard",
    "tfdefines",
    "pytorch",
)
_FRAMEWORKS += ("megengine", "xgboost", "catboost", "fastai", "lightgbm", "gradio")


class ClearmlTracker(TellsAgain):
    """Logs to a ClearML task: the one that is current, or one of its own.

    Environment:
        CLEARML_PROJECT, CLEARML_TASK: names; "HuggingFace Transformers" and "Trainer" by default.
        CLEARML_LOG_MODEL: "1" keeps every checkpoint as an artifact.
        CLEARML_OFFLINE_MODE, CLEARML_API_ACCESS_KEY, CLEARML_API_SECRET_KEY, CLEARML_API_HOST and CLEARML_CONFIG_FILE:
            as the client reads them.

    A resumed run goes on in the same task, online; offline it is a new session, which has the rows of a killed process
    too. Offline, the source's repository and packages are not looked up.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("clearml>=1.14",)
    extra: ClassVar[str] = "clearml"
    hint: ClassVar[str] = (
        "CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or set CLEARML_OFFLINE_MODE=1"
    )

    _task: Any = None
    _is_ours = True
    _is_offline = False
    """As the client has it, which reads the environment when it is imported, and can be told otherwise."""
    _keeps_checkpoints = False

    def unavailable_because(self) -> str | None:
        """Say that the client is not set up."""
        return None if _is_offline() or _has_credentials() else f"no credentials; {_HINT}"

    def load(self) -> None:
        """Import the client."""
        import clearml  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin or go on with the task.

        Raises:
            PermissionError: there are no credentials; nothing is asked for.
            ConnectionError: the server cannot be reached, or refuses.
        """
        from clearml import Task

        is_offline = self._is_offline = Task.is_offline()
        if not is_offline:
            _check_server()
        self._keeps_checkpoints = os.environ.get("CLEARML_LOG_MODEL", "").lower() in _TRUE
        current = Task.current_task()
        self._is_ours = current is None
        with nullcontext() if is_offline else begins(self.hint):
            self._task = current or _begin(Task, run, is_offline=is_offline)
        self._task.connect(dict(run.arguments), name="Args")
        if run.model:
            self._task.set_configuration_object(name="Model Configuration", config_dict=dict(run.model))
        if run.trial_params:
            self._task.connect(dict(run.trial_params), name="Trial")
        if self._is_ours and is_offline:
            self._tell_again(run)  # what a killed process had not written yet
        return str(self._task.id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Report the numbers of a step: the stage is the plot, the metric its curve."""
        logger = self._task.get_logger()
        for name, value in metrics.items():
            title, _, series = name.partition("/")
            logger.report_scalar(title=title, series=series or title, value=value, iteration=step)

    def log_media(self, media: Media) -> None:
        """Report a picture, a text or a histogram."""
        logger = self._task.get_logger()
        if media.kind == "image":
            logger.report_image(title=media.name, series=media.name, iteration=media.step, local_path=media.path)
        elif media.kind == "text":
            logger.report_media(title=media.name, series=media.name, iteration=media.step, local_path=media.path)
        else:
            import numpy as np

            with np.load(media.path) as values:
                labels = [f"{edge:.4g}" for edge in values["edges"][:-1]]
                logger.report_histogram(
                    title=media.name, series=media.name, values=values["counts"], iteration=media.step, xlabels=labels
                )

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder; a checkpoint only if CLEARML_LOG_MODEL asks for it."""
        if not artifact.is_checkpoint or self._keeps_checkpoints:
            self._task.upload_artifact(artifact.name, artifact_object=artifact.path, wait_on_upload=True)

    def finish(self, status: Status, error: str | None) -> None:
        """End the task, unless somebody else began it."""
        self._task.get_logger().flush()
        self._task.set_parameter("Run/status", status)
        if error is not None:
            self._task.set_parameter("Run/error", error)
        if not self._is_ours:
            return
        if not self._is_offline:
            if status == "failed":
                self._task.mark_failed(ignore_errors=True, status_reason=error or "", force=True)
            elif status == "interrupted":
                self._task.mark_stopped(force=True)
        self._task.close()


_HINT = "run `clearml-init`, set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or set CLEARML_OFFLINE_MODE=1"


def _begin(task: Any, run: Run, *, is_offline: bool) -> Any:
    # A forked reporter makes closing a task wait for 6 to 12 seconds; this runs in a thread of its own already.
    task._report_subprocess_enabled = False
    off = dict.fromkeys((*_FRAMEWORKS, "detect_repository"), False)
    goes_on = run.remote_id is not None and not is_offline
    return task.init(
        project_name=os.environ.get("CLEARML_PROJECT", "HuggingFace Transformers"),
        task_name=run.trial or os.environ.get("CLEARML_TASK") or run.name or "Trainer",
        tags=None if run.group is None else [run.group],
        reuse_last_task_id=run.remote_id if goes_on else False,
        continue_last_task=0 if goes_on else False,  # True would add its last iteration to every step
        auto_connect_frameworks=off if is_offline else False,
        auto_connect_arg_parser=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )


def _check_server() -> None:
    from clearml.backend_api import Session

    if not _has_credentials():
        raise PermissionError(f"no credentials: {_HINT}")
    check_reachable(Session.get_api_server_host(), "set CLEARML_API_HOST to your server, or CLEARML_OFFLINE_MODE=1")


def _is_offline() -> bool:
    return os.environ.get("CLEARML_OFFLINE_MODE", "").lower() in _TRUE


def _has_credentials() -> bool:
    if os.environ.get("CLEARML_API_ACCESS_KEY") and os.environ.get("CLEARML_API_SECRET_KEY"):
        return True
    from clearml.config import ConfigWrapper

    return bool(ConfigWrapper.get("api.credentials.access_key", None))
