"""DVCLive: files of metrics and parameters that DVC and its viewers read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker

_LOG_MODEL = {"": "none", "false": "none", "0": "none", "true": "last", "1": "last", "all": "all"}


class DvcliveTracker(Tracker):
    """Writes a ``dvclive`` folder in the working directory; a trial of a search a folder below it.

    Environment:
        HF_DVCLIVE_LOG_MODEL: "all" keeps every checkpoint as an artifact, "true" the last one; in a DVC repository.
        DVCLIVE_DIR: the folder.

    The step column has the run's steps. A resumed run adds to the same files.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("dvclive>=3.3",)
    extra: ClassVar[str] = "dvclive"

    _live: Any = None
    _has_repository = False
    _keeps = "none"
    _last: Artifact | None = None

    def load(self) -> None:
        """Import the client."""
        import dvclive  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Open the folder, and write the parameters.

        Raises:
            ValueError: HF_DVCLIVE_LOG_MODEL is none of its words.
        """
        from dvclive import Live

        word = os.environ.get("HF_DVCLIVE_LOG_MODEL", "").lower()
        if word not in _LOG_MODEL:
            raise ValueError(f"HF_DVCLIVE_LOG_MODEL={word!r} is none of 'all', 'true' and 'false'")
        self._keeps = _LOG_MODEL[word]
        known = run.folder_of_id(_folder_of(run))
        folder = known or _folder_of(run)
        self._live = Live(dir=folder, resume=known is not None, exp_name=run.trial or None)
        self._has_repository = self._live._dvc_repo is not None  # asked, since it keeps nothing then, and says nothing
        self._live.log_params({**run.model, **run.arguments, **run.trial_params})
        return os.path.abspath(folder)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the numbers of a step."""
        self._live.step = step  # its own count is of calls
        for name, value in metrics.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def log_media(self, media: Media) -> None:
        """Keep a picture."""
        if media.kind == "image":
            self._live.step = media.step
            self._live.log_image(f"{media.name}.png", media.path)

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder; a checkpoint only as HF_DVCLIVE_LOG_MODEL says."""
        if not artifact.is_checkpoint or self._keeps == "all":
            self._keep(artifact)
        elif self._keeps == "last":
            self._last = artifact

    def finish(self, status: Status, error: str | None) -> None:
        """Write the summary."""
        if self._last is not None:
            self._keep(self._last)
        self._live.summary["status"] = status
        if error is not None:
            self._live.summary["error"] = error
        self._live.end()

    def _keep(self, artifact: Artifact) -> None:
        if not self._has_repository:
            self._warn_once("repository", f"{artifact.name} is not kept: this is no DVC repository; run `dvc init`")
            return
        kind = "model" if artifact.is_checkpoint else "folder"
        self._live.log_artifact(artifact.path, name=artifact.name, type=kind, copy=True)


def _folder_of(run: Run) -> str:
    base = os.environ.get("DVCLIVE_DIR", "dvclive")
    return base if run.trial is None else os.path.join(base, run.group or "trials", run.trial)
