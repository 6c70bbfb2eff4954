"""Comet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker

_START_MODES = ("get_or_create", "get", "create")
_TRUE = ("1", "true", "yes", "on")


class CometTracker(Tracker):
    """Logs to a Comet experiment: the one that is running, or one of its own.

    Environment:
        COMET_MODE: "online", "offline" or "disabled".
        COMET_START_MODE: "get_or_create" (default), "get" or "create".
        COMET_PROJECT_NAME, COMET_WORKSPACE, COMET_API_KEY, COMET_OFFLINE_DIRECTORY: as the client reads them.
        COMET_LOG_ASSETS: "1" keeps every checkpoint as assets.

    A resumed run goes on in the same experiment; offline, it is another archive of the same experiment key. Steps that
    are trained again have two points there, of which the later one is drawn.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("comet_ml>=3.43.2",)
    extra: ClassVar[str] = "cometml"

    _experiment: Any = None
    _is_ours = True

    def unavailable_because(self) -> str | None:
        """Say that there is no key, or that Comet is turned off."""
        mode = os.environ.get("COMET_MODE", "").lower()
        if mode == "disabled":
            return "COMET_MODE is disabled"
        return None if mode == "offline" or _has_key() else "no API key; set COMET_API_KEY, or COMET_MODE=offline"

    def start(self, run: Run) -> str | None:
        """Begin or go on with the experiment.

        Raises:
            PermissionError: there is no key; nothing is asked for.
            ValueError: COMET_START_MODE is none of its words.
        """
        # Where codecarbon is installed, the client starts it, which looks up where this machine stands.
        os.environ.setdefault("COMET_AUTO_LOG_CO2", "false")
        import comet_ml

        mode = os.environ.get("COMET_START_MODE", "get_or_create").lower()
        if mode not in _START_MODES:
            raise ValueError(f"COMET_START_MODE={mode!r} is none of {', '.join(_START_MODES)}")
        is_online = os.environ.get("COMET_MODE", "").lower() != "offline"
        if is_online and not _has_key():
            raise PermissionError("no API key: set COMET_API_KEY, or COMET_MODE=offline")
        running = comet_ml.get_running_experiment()
        self._is_ours = running is None
        self._experiment = running or comet_ml.start(
            online=is_online,
            mode=mode,
            experiment_key=run.remote_id or os.environ.get("COMET_EXPERIMENT_KEY"),
            experiment_config=comet_ml.ExperimentConfig(name=run.trial or run.name, log_code=False),
        )
        self._experiment.log_other("Created from", "hftrain")
        self._experiment.log_parameters({**run.model, **run.arguments, **run.trial_params})
        return str(self._experiment.get_key())

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._experiment.log_metrics(dict(metrics), step=step)

    def log_media(self, media: Media) -> None:
        """Log a picture, a text or a histogram."""
        if media.kind == "image":
            self._experiment.log_image(media.path, name=media.name, step=media.step)
        elif media.kind == "text":
            with open(media.path, encoding="utf-8") as file:
                self._experiment.log_text(file.read(), step=media.step, metadata={"name": media.name})
        else:
            self._experiment.log_asset(media.path, file_name=f"{media.name}.npz", step=media.step)

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder; a checkpoint only if COMET_LOG_ASSETS asks for it."""
        if artifact.is_checkpoint and os.environ.get("COMET_LOG_ASSETS", "").lower() not in _TRUE:
            return
        if os.path.isdir(artifact.path):
            self._experiment.log_asset_folder(artifact.path, step=artifact.step, log_file_name=True, recursive=True)
        else:
            self._experiment.log_asset(artifact.path, file_name=artifact.name, step=artifact.step)

    def finish(self, status: Status, error: str | None) -> None:
        """End the experiment, unless somebody else began it."""
        self._experiment.log_other("status", status)
        if error is not None:
            self._experiment.log_other("error", error)
        if self._is_ours:
            self._experiment.end()


def _has_key() -> bool:
    from comet_ml import get_config

    return bool(get_config("comet.api_key"))
