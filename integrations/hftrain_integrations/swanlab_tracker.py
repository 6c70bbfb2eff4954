"""SwanLab."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Media, Run, Status, Tracker
from hftrain.plugin_api.values import flat

_LOCAL_MODES = ("offline", "local", "disabled")


class SwanlabTracker(Tracker):
    """Logs to a SwanLab experiment: the one that is running, or one of its own.

    Environment:
        SWANLAB_MODE: "cloud" (default), "local", "offline" or "disabled".
        SWANLAB_PROJECT, SWANLAB_WORKSPACE, SWANLAB_LOG_DIR, SWANLAB_API_KEY: as documented.

    A resumed run goes on in the same experiment in the cloud; elsewhere it is another folder with the same id.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("swanlab>=0.6",)
    extra: ClassVar[str] = "swanlab"

    _client: Any = None
    _is_ours = True

    def unavailable_because(self) -> str | None:
        """Say that there is no key."""
        return None if _is_local() or _has_key() else "no API key; set SWANLAB_API_KEY, or SWANLAB_MODE=offline"

    def start(self, run: Run) -> str | None:
        """Begin or go on with the experiment.

        Raises:
            PermissionError: there is no key; nothing is asked for.
        """
        import swanlab

        if not _is_local() and not _has_key():
            raise PermissionError("no API key: set SWANLAB_API_KEY or run `swanlab login`, or set SWANLAB_MODE=offline")
        self._client = swanlab
        self._is_ours = not swanlab.has_run()
        remote_id = run.remote_id or _id_of(run.run_id)
        if self._is_ours:
            with _project_hidden() as project:
                swanlab.init(
                    project=project or "huggingface",
                    workspace=os.environ.get("SWANLAB_WORKSPACE"),
                    experiment_name=run.trial or run.name,
                    group=run.group,
                    logdir=os.environ.get("SWANLAB_LOG_DIR"),
                    mode=os.environ.get("SWANLAB_MODE"),
                    id=remote_id,
                    resume="allow",
                )
        swanlab.config.update({"FRAMEWORK": "hftrain", **run.model, **run.arguments, **flat(run.trial_params)})
        return remote_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._client.log(dict(metrics), step=step)

    def log_media(self, media: Media) -> None:
        """Log a picture or a text."""
        if media.kind == "image":
            self._client.log({media.name: self._client.Image(media.path)}, step=media.step)
        elif media.kind == "text":
            with open(media.path, encoding="utf-8") as file:
                self._client.log({media.name: self._client.Text(file.read())}, step=media.step)

    def finish(self, status: Status, error: str | None) -> None:
        """End the experiment, unless somebody else began it."""
        self._client.config.update({"run_status": status} if error is None else {"run_status": status, "error": error})
        if not self._is_ours:
            return
        if status in ("finished", "pruned"):
            self._client.finish()
        else:
            self._client.finish(state="crashed" if status == "failed" else "aborted", error=error or status)


def _id_of(run_id: str) -> str:
    return "".join(letter for letter in run_id if letter.isalnum())


@contextmanager
def _project_hidden() -> Iterator[str | None]:
    """Give SWANLAB_PROJECT's value and hide it: the client of today takes it for JSON, and fails on a name."""
    project = os.environ.pop("SWANLAB_PROJECT", None)
    try:
        yield project or os.environ.get("SWANLAB_PROJ_NAME")
    finally:
        if project is not None:
            os.environ["SWANLAB_PROJECT"] = project


def _is_local() -> bool:
    return os.environ.get("SWANLAB_MODE", "").lower() in _LOCAL_MODES


def _has_key() -> bool:
    if os.environ.get("SWANLAB_API_KEY"):
        return True
    folder = os.environ.get("SWANLAB_SAVE_DIR") or os.path.join(os.path.expanduser("~"), ".swanlab")
    return os.path.exists(os.path.join(folder, ".netrc"))
