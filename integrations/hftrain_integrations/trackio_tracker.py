"""Trackio: a local store, or a Space."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Media, Run, Status, Tracker


class TrackioTracker(Tracker):
    """Logs to a Trackio run.

    Environment:
        TRACKIO_PROJECT: the project, "huggingface" by default.
        TRACKIO_SPACE_ID: a Space that shows it; nothing is sent anywhere without one.
        TRACKIO_DIR: the local store.

    A resumed run goes on in the same Trackio run; steps that are trained again have two rows, of which the later one
    counts.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("trackio>=0.2",)
    extra: ClassVar[str] = "trackio"

    _run: Any = None

    def start(self, run: Run) -> str | None:
        """Begin or go on with the run."""
        import trackio

        name = run.remote_id or f"{run.trial or run.name or 'run'}-{run.run_id}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "huggingface"),
            name=name,
            group=run.group,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config={**run.model, **run.arguments, **run.trial_params},
            resume="allow",
            embed=False,
        )
        return name

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(metrics), step=step)

    def log_media(self, media: Media) -> None:
        """Log a picture."""
        if media.kind == "image":
            import trackio

            self._run.log({media.name: trackio.Image(media.path)}, step=media.step)

    def finish(self, status: Status, error: str | None) -> None:
        """Say how the run ended, and write what waits."""
        self._run.log({"status": status} if error is None else {"status": status, "error": error})
        self._run.finish()
