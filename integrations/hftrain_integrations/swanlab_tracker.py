"""SwanLab."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status
from hftrain.plugin_api.values import flat
from hftrain_integrations._reachable import begins, check_reachable
from hftrain_integrations._told_again import TellsAgain

_LOCAL_MODES = ("offline", "local", "disabled")
_CLOUD_MODES = ("cloud", "online")


class SwanlabTracker(TellsAgain):
    """Logs to a SwanLab experiment: the one that is running, or one of its own.

    Environment:
        SWANLAB_MODE: "cloud" (default), "local", "offline" or "disabled".
        SWANLAB_PROJECT, SWANLAB_WORKSPACE, SWANLAB_LOG_DIR: where it is kept.
        SWANLAB_API_KEY, SWANLAB_API_HOST, SWANLAB_WEB_HOST: of the cloud, or of a server of one's own.

    A resumed run goes on in the same experiment in the cloud; elsewhere it is another folder of the same id, which
    has the rows of a killed process too.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("swanlab>=0.6",)
    extra: ClassVar[str] = "swanlab"
    hint: ClassVar[str] = "SWANLAB_API_HOST and SWANLAB_API_KEY, or set SWANLAB_MODE=offline"

    _client: Any = None
    _is_ours = True

    def unavailable_because(self) -> str | None:
        """Say that there is no key."""
        return None if _is_local() or _has_key() else "no API key; set SWANLAB_API_KEY, or SWANLAB_MODE=offline"

    def load(self) -> None:
        """Import the client."""
        import swanlab  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin or go on with the experiment.

        Raises:
            PermissionError: there is no key; nothing is asked for.
            ConnectionError: the server cannot be reached, or refuses.
            ValueError: SWANLAB_MODE is none of its words.
        """
        import swanlab

        if not _is_local():
            _check_server()
        self._client = swanlab
        self._is_ours = not swanlab.has_run()
        remote_id = run.remote_id or _id_of(run.run_id)
        if self._is_ours:
            with nullcontext() if _is_local() else begins(self.hint), _project_hidden() as project:
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
        if _is_local() and self._is_ours:
            self._tell_again(run)  # a killed process leaves an empty file
        swanlab.config.update({"FRAMEWORK": "hftrain", **run.model, **run.arguments, **flat(run.trial_params)})
        return remote_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._client.log(dict(metrics), step=step)

    def log_media(self, media: Media) -> None:
        """Log a picture, a text, or a histogram as a chart of bars."""
        shown: Any
        if media.kind == "image":
            shown = self._client.Image(media.path)
        elif media.kind == "text":
            with open(media.path, encoding="utf-8") as file:
                shown = self._client.Text(file.read())
        else:
            shown = self._bars(media.path)
        self._client.log({media.name: shown}, step=media.step)

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep the files of a folder beside the run; of a checkpoint nothing, since they are not copied."""
        if artifact.is_checkpoint:
            return
        base = os.path.dirname(os.path.abspath(artifact.path))
        for path in _files_of(artifact.path):
            self._client.save(glob.escape(path), base_path=base, policy="now")

    def _bars(self, path: str) -> Any:
        import numpy as np

        with np.load(path) as values:
            labels = [f"{edge:.4g}" for edge in values["edges"][:-1]]
            counts = [int(count) for count in values["counts"]]
        return self._client.echarts.Bar().add_xaxis(labels).add_yaxis("count", counts)

    def finish(self, status: Status, error: str | None) -> None:
        """End the experiment, unless somebody else began it."""
        self._client.config.update({"run_status": status} if error is None else {"run_status": status, "error": error})
        if not self._is_ours:
            return
        if status in ("finished", "pruned"):
            self._client.finish()
        else:
            self._client.finish(state="crashed" if status == "failed" else "aborted", error=error or status)


def _files_of(path: str) -> list[str]:
    """Return the file, or all files below the folder."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]


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
    mode = os.environ.get("SWANLAB_MODE", "").strip().lower()
    if mode and mode not in (*_LOCAL_MODES, *_CLOUD_MODES):
        raise ValueError(f"SWANLAB_MODE={mode!r} is none of {', '.join((*_CLOUD_MODES, *_LOCAL_MODES))}")
    return mode in _LOCAL_MODES


def _check_server() -> None:
    if not _has_key():
        raise PermissionError("no API key: set SWANLAB_API_KEY or run `swanlab login`, or set SWANLAB_MODE=offline")
    url = os.environ.get("SWANLAB_API_HOST") or "https://api.swanlab.cn"
    check_reachable(url, "set SWANLAB_API_HOST to your server, or SWANLAB_MODE=offline")


def _has_key() -> bool:
    if os.environ.get("SWANLAB_API_KEY"):
        return True
    folder = os.environ.get("SWANLAB_SAVE_DIR") or os.path.join(os.path.expanduser("~"), ".swanlab")
    return os.path.exists(os.path.join(folder, ".netrc"))
