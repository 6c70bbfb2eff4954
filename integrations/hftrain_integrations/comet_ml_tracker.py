"""Comet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status
from hftrain_integrations._reachable import check_reachable
from hftrain_integrations._told_again import TellsAgain

_START_MODES = ("get_or_create", "get", "create")
_MODES = (*_START_MODES, "online", "offline", "disabled")
_TRUE = ("1", "true", "yes", "on")


class CometTracker(TellsAgain):
    """Logs to a Comet experiment: the one that is running, or one of its own.

    Environment:
        COMET_MODE: "get_or_create", "get" or "create", as COMET_START_MODE; or "online", "offline" or "disabled".
        COMET_START_ONLINE: "0" is offline.
        COMET_START_MODE: "get_or_create" (default), "get" or "create"; COMET_EXPERIMENT_KEY says of which experiment.
        COMET_PROJECT_NAME, COMET_WORKSPACE, COMET_API_KEY, COMET_OFFLINE_DIRECTORY: as the client reads them.
        COMET_LOG_ASSETS: "1" keeps every checkpoint as assets.

    A resumed run goes on in the same experiment; offline, it is another archive of the same experiment key, which has
    the rows of a killed process too, since that leaves an empty one. Steps that are trained again have two points, of
    which the later one is drawn.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("comet_ml>=3.43.2",)
    extra: ClassVar[str] = "cometml"
    hint: ClassVar[str] = "COMET_URL_OVERRIDE and COMET_API_KEY, or set COMET_MODE=offline"

    _experiment: Any = None
    _is_ours = True

    def unavailable_because(self) -> str | None:
        """Say that there is no key, or that Comet is turned off."""
        if _mode() == "disabled":
            return "COMET_MODE is disabled"
        return None if _is_offline() or _has_key() else f"no API key; {_HINT}"

    def load(self) -> None:
        """Import the client."""
        os.environ.setdefault("COMET_AUTO_LOG_CO2", "false")  # as `start` says
        import comet_ml  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin or go on with the experiment.

        Raises:
            PermissionError: there is no key; nothing is asked for.
            ConnectionError: the server cannot be reached, or refuses.
            ValueError: COMET_MODE or COMET_START_MODE is none of its words.
        """
        # Where codecarbon is installed, the client starts it, which looks up where this machine stands.
        os.environ.setdefault("COMET_AUTO_LOG_CO2", "false")
        import comet_ml

        start_mode, is_offline, is_off = _start_mode(), _is_offline(), _mode() == "disabled"
        if not (is_offline or is_off):
            _check_server()
        key = run.remote_id or os.environ.get("COMET_EXPERIMENT_KEY")
        running = comet_ml.get_running_experiment()
        self._is_ours = running is None or running.ended  # one that has ended is still called the running one
        self._experiment = (
            running
            if not self._is_ours
            else comet_ml.start(
                online=not (is_offline or is_off),
                mode=start_mode,
                experiment_key=key,
                experiment_config=comet_ml.ExperimentConfig(
                    name=run.trial or run.name,
                    log_code=False,
                    parse_args=False,  # a command line may hold secrets; the arguments are told below, without
                    disabled=is_off,
                ),
            )
        )
        if not (is_offline or is_off or self._experiment.alive):  # the client says so in its own log, and goes on
            raise ConnectionError(
                "the server did not let the experiment begin; check COMET_API_KEY, COMET_WORKSPACE and "
                "COMET_URL_OVERRIDE, or set COMET_MODE=offline"
            )
        self._describe(run)
        if is_offline and self._is_ours:
            self._tell_again(run)  # a killed process leaves an empty archive
        return str(self._experiment.get_key())

    def _describe(self, run: Run) -> None:
        self._experiment.log_other("Created from", "hftrain")
        self._experiment.log_parameters({**run.model, **run.arguments, **run.trial_params})
        if run.group is not None:
            self._experiment.log_other("group", run.group)
            self._experiment.add_tag(run.group)

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
            import numpy as np
            from comet_ml import Histogram

            histogram = Histogram()
            with np.load(media.path) as values:
                edges, counts = values["edges"], values["counts"]
            histogram.add((edges[:-1] + edges[1:]) / 2, counts=counts)
            self._experiment.log_histogram_3d(histogram, name=media.name, step=media.step)

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


_HINT = "set COMET_API_KEY, or COMET_MODE=offline (COMET_START_ONLINE=0)"


def _mode() -> str:
    """Return COMET_MODE, which the reference has for both: whether it is online, and whether it is a new experiment."""
    mode = os.environ.get("COMET_MODE", "").strip().lower()
    if mode and mode not in _MODES:
        raise ValueError(f"COMET_MODE={mode!r} is none of {', '.join(_MODES)}")
    return mode


def _start_mode() -> str:
    mode = os.environ.get("COMET_START_MODE", "").strip().lower()
    if mode and mode not in _START_MODES:
        raise ValueError(f"COMET_START_MODE={mode!r} is none of {', '.join(_START_MODES)}")
    return mode or (_mode() if _mode() in _START_MODES else "get_or_create")


def _is_offline() -> bool:
    online = os.environ.get("COMET_START_ONLINE", "").strip().lower()
    return _mode() == "offline" or (_mode() != "online" and online != "" and online not in _TRUE)


def _check_server() -> None:
    from comet_ml import get_config

    if not _has_key():
        raise PermissionError(f"no API key: {_HINT}")
    url = get_config("comet.url_override") or "https://www.comet.com"
    check_reachable(url, "set COMET_URL_OVERRIDE to your server, or COMET_MODE=offline")


def _has_key() -> bool:
    from comet_ml import get_config

    return bool(get_config("comet.api_key"))
