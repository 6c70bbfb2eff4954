"""Neptune: the offline format; the hosted service closed on 5 March 2026."""

from __future__ import annotations

import base64
import json
import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status
from hftrain_integrations._reachable import check_reachable
from hftrain_integrations._told_again import TellsAgain

_LOCAL_MODES = ("offline", "debug")
_MODES = (*_LOCAL_MODES, "async", "sync")
_KEEPS = ("", "none", "same", "last")


class NeptuneTracker(TellsAgain):
    """Writes Neptune's offline files.

    Environment:
        NEPTUNE_MODE: "offline", "debug", or, with a server of one's own at NEPTUNE_API_TOKEN's address, "async".
        NEPTUNE_PROJECT: the project.
        NEPTUNE_LOG_CHECKPOINTS: "same" uploads every checkpoint, "last" the last one.

    A resumed run is another offline run, whose ``hftrain/run_id`` is the same; it has the rows of a killed process too.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("neptune>=1.0",)
    extra: ClassVar[str] = "neptune"
    hint: ClassVar[str] = "NEPTUNE_API_TOKEN, or set NEPTUNE_MODE=offline"

    _run: Any = None
    _keeps = ""
    _last: Artifact | None = None

    def unavailable_because(self) -> str | None:
        """Say that the service is gone, unless the mode is a local one."""
        return None if _is_local() else "its hosted service closed on 5 March 2026; set NEPTUNE_MODE=offline"

    def load(self) -> None:
        """Import the client."""
        import neptune  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin a run.

        Raises:
            ConnectionError: it is to be online, and there is no server.
            ValueError: NEPTUNE_MODE, NEPTUNE_LOG_CHECKPOINTS or NEPTUNE_PROJECT is none that can be.
        """
        if not _is_local():
            _check_server()
        self._keeps = os.environ.get("NEPTUNE_LOG_CHECKPOINTS", "").strip().lower()
        if self._keeps not in _KEEPS:
            raise ValueError(f"NEPTUNE_LOG_CHECKPOINTS={self._keeps!r} is none of 'same' and 'last'")
        import neptune
        from neptune.utils import stringify_unsupported

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the service's end, which the line above says
            self._run = neptune.init_run(
                name=run.trial or run.name,
                capture_stdout=False,
                capture_stderr=False,
                capture_hardware_metrics=False,
                capture_traceback=False,
                git_ref=False,
                source_files=[],
            )
        if _is_local():
            self._tell_again(run)  # what a killed process had not written yet
        self._run["hftrain/run_id"] = run.run_id
        self._run["finetuning/trainer_parameters"] = stringify_unsupported(dict(run.arguments))
        if run.model:
            self._run["finetuning/model_parameters"] = stringify_unsupported(dict(run.model))
        if run.group is not None:
            self._run["sys/group_tags"].add(run.group)
        if run.trial is not None:
            self._run["finetuning/trial"] = run.trial
            self._run["finetuning/trial_params"] = stringify_unsupported(dict(run.trial_params))
        return run.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the numbers of a step."""
        for name, value in metrics.items():
            self._run[f"finetuning/{name}"].append(value, step=step)

    def log_media(self, media: Media) -> None:
        """Upload the file."""
        self._run[f"finetuning/media/{media.name}/{media.step}"].upload(media.path)

    def log_artifact(self, artifact: Artifact) -> None:
        """Upload a folder or a file; a checkpoint only as NEPTUNE_LOG_CHECKPOINTS says."""
        if not artifact.is_checkpoint or self._keeps == "same":
            self._upload(artifact)
        elif self._keeps == "last":
            self._last = artifact

    def _upload(self, artifact: Artifact) -> None:
        field = self._run[f"finetuning/artifacts/{artifact.name}"]
        if os.path.isdir(artifact.path):
            field.upload_files(artifact.path)
        else:
            field.upload(artifact.path)

    def finish(self, status: Status, error: str | None) -> None:
        """Say how the run ended, and write what waits."""
        if self._last is not None:
            self._upload(self._last)
        self._run["finetuning/status"] = status
        if error is not None:
            self._run["finetuning/error"] = error
        self._run.stop()


_GONE = "Neptune's hosted service closed on 5 March 2026"
_HINT = "set NEPTUNE_MODE=offline to write its files, or NEPTUNE_API_TOKEN for a server of your own"


def _is_local() -> bool:
    mode = os.environ.get("NEPTUNE_MODE", "").strip().lower()
    if mode and mode not in _MODES:
        raise ValueError(f"NEPTUNE_MODE={mode!r} is none of {', '.join(_MODES)}")
    return mode in _LOCAL_MODES


def _check_server() -> None:
    """Look whether a server of one's own answers, at the address that the token holds."""
    token = os.environ.get("NEPTUNE_API_TOKEN", "")
    if not token:
        raise ConnectionError(f"{_GONE}: {_HINT}")
    try:
        address = str(json.loads(base64.b64decode(token))["api_address"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("NEPTUNE_API_TOKEN is no token: it is to hold the address of a server") from None
    if address.rstrip("/").endswith("neptune.ai"):
        raise ConnectionError(f"{_GONE}, and NEPTUNE_API_TOKEN is of it: {_HINT}")
    check_reachable(address, _HINT)
    if os.environ.get("NEPTUNE_PROJECT", "").count("/") != 1:
        raise ValueError("set NEPTUNE_PROJECT to workspace/project")
