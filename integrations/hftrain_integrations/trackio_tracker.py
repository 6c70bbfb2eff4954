"""Trackio: a local store, or a Space."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status
from hftrain_integrations._told_again import TellsAgain

_TRUE = ("1", "true", "yes", "on")


class TrackioTracker(TellsAgain):
    """Logs to a Trackio run.

    Environment:
        TRACKIO_PROJECT: the project, "huggingface" by default.
        TRACKIO_SPACE_ID: a Space that shows it; nothing is sent anywhere without one.
        TRACKIO_DIR: the local store.
        TRACKIO_LOG_MODEL: "1" keeps every checkpoint as an artifact.

    A resumed run goes on in the same Trackio run; steps that are trained again have two rows, of which the later one
    counts. So have those before them if the process was killed: they are told again.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("trackio>=0.2",)
    extra: ClassVar[str] = "trackio"
    hint: ClassVar[str] = "TRACKIO_SPACE_ID and HF_TOKEN; without TRACKIO_SPACE_ID the run is kept here"

    _run: Any = None

    def load(self) -> None:
        """Import the client."""
        import trackio  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin or go on with the run.

        Raises:
            ConnectionError: the Space that is named cannot be used.
        """
        import trackio

        name = run.remote_id or f"{run.trial or run.name or 'run'}-{run.run_id}"
        space_id = os.environ.get("TRACKIO_SPACE_ID")
        try:
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "huggingface"),
                name=name,
                group=run.group,
                space_id=space_id,
                config={**run.model, **run.arguments, **run.trial_params},
                resume="allow",
                embed=False,
            )
        except Exception as error:  # of the hub's client, of many kinds
            if space_id is None:
                raise
            raise ConnectionError(
                f"the Space {space_id!r} cannot be used ({error}): set TRACKIO_SPACE_ID to one that is yours, and "
                "HF_TOKEN; without TRACKIO_SPACE_ID the run is kept here"
            ) from error
        if space_id is None:
            self._tell_again(run)  # the client stores what it was told half a second later
        return name

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(metrics), step=step)

    def log_media(self, media: Media) -> None:
        """Log a picture, a histogram or a text."""
        import trackio

        shown: Any
        if media.kind == "image":
            shown = trackio.Image(media.path)
        elif media.kind == "histogram":
            import numpy as np

            with np.load(media.path) as values:
                shown = trackio.Histogram(np_histogram=(values["counts"], values["edges"]))
        else:
            with open(media.path, encoding="utf-8") as file:
                shown = trackio.Html(f"<pre>{html.escape(file.read())}</pre>")
        self._run.log({media.name: shown}, step=media.step)

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder or a file; a checkpoint only if TRACKIO_LOG_MODEL asks for it."""
        if artifact.is_checkpoint and os.environ.get("TRACKIO_LOG_MODEL", "").lower() not in _TRUE:
            return
        if not hasattr(self._run, "log_artifact"):
            self._warn_once("artifacts", f"{artifact.name} is not kept: this version of trackio has no artifacts")
            return
        kind = "model" if artifact.is_checkpoint else "folder"
        self._run.log_artifact(artifact.path, name=re.sub(r"[^A-Za-z0-9._-]", "_", artifact.name), type=kind)

    def finish(self, status: Status, error: str | None) -> None:
        """Say how the run ended, and write what waits."""
        self._run.log({"status": status} if error is None else {"status": status, "error": error})
        self._run.finish()
