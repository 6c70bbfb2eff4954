"""Neptune: the offline format; the hosted service closed on 5 March 2026."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker

_LOCAL_MODES = ("offline", "debug")


class NeptuneTracker(Tracker):
    """Writes Neptune's offline files.

    Environment:
        NEPTUNE_MODE: "offline", "debug", or, with a server of one's own at NEPTUNE_API_TOKEN's address, "async".
        NEPTUNE_PROJECT: the project.

    A resumed run is another offline run, whose ``hftrain/run_id`` is the same.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("neptune>=1.0",)
    extra: ClassVar[str] = "neptune"

    _run: Any = None

    def unavailable_because(self) -> str | None:
        """Say that the service is gone, unless the mode is a local one."""
        return None if _is_local() else "its hosted service closed on 5 March 2026; set NEPTUNE_MODE=offline"

    def start(self, run: Run) -> str | None:
        """Begin a run.

        Raises:
            ConnectionError: it is to be online, and no token says where.
        """
        if not _is_local() and not os.environ.get("NEPTUNE_API_TOKEN"):
            raise ConnectionError(
                "Neptune's hosted service closed on 5 March 2026: set NEPTUNE_MODE=offline to write its files, or "
                "NEPTUNE_API_TOKEN for a server of your own"
            )
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
        self._run["hftrain/run_id"] = run.run_id
        self._run["finetuning/trainer_parameters"] = stringify_unsupported(dict(run.arguments))
        if run.model:
            self._run["finetuning/model_parameters"] = stringify_unsupported(dict(run.model))
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
        """Upload a folder or a file, checkpoints among them."""
        field = self._run[f"finetuning/artifacts/{artifact.name}"]
        if os.path.isdir(artifact.path):
            field.upload_files(artifact.path)
        else:
            field.upload(artifact.path)

    def finish(self, status: Status, error: str | None) -> None:
        """Say how the run ended, and write what waits."""
        self._run["finetuning/status"] = status
        if error is not None:
            self._run["finetuning/error"] = error
        self._run.stop()


def _is_local() -> bool:
    return os.environ.get("NEPTUNE_MODE", "").lower() in _LOCAL_MODES
