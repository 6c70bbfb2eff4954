"""Weights & Biases."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from html import escape
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status
from hftrain_integrations._reachable import begins
from hftrain_integrations._told_again import TellsAgain

_STEP = "train/global_step"
_LOCAL_MODES = ("offline", "dryrun", "disabled")
_LOG_MODEL = {"": "false", "false": "false", "0": "false", "end": "end", "true": "end", "1": "end"}
_LOG_MODEL |= {"checkpoint": "checkpoint"}
_WATCH = {"": (), "false": (), "0": (), "gradients": ("gradients",), "parameters": ("parameters",)}
_WATCH |= {"all": ("gradients", "parameters"), "true": ("gradients", "parameters")}
_EXIT_CODES = {"finished": 0, "pruned": 0, "failed": 1, "interrupted": 255}
_ANSWER_S = 5.0
_INIT_S = 10.0
_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)
_KEYLESS = "no API key: set WANDB_API_KEY or run `wandb login`, or set WANDB_MODE=offline"


class WandbTracker(TellsAgain):
    """Logs to a W&B run: the one that is active, or one of its own.

    Environment:
        WANDB_PROJECT: the project, "huggingface" by default.
        WANDB_LOG_MODEL: "checkpoint" keeps every checkpoint as versions of ``checkpoint-<run>``, and the model as
            training left it as ``model-<run>``; "end" keeps the latter alone, "false" (the default) neither. ``<run>``
            is run_name, or the id of the W&B run where that was not given.
        WANDB_WATCH: "gradients", "parameters" or "all" tells their histograms each ``max(100, logging_steps)`` steps,
            as ``gradients/<parameter>``; "false" (the default) tells none.
        WANDB_DISABLED: "true" turns W&B off, as WANDB_MODE=disabled does.
        WANDB_NAME, WANDB_RUN_GROUP: instead of the names of the run and of the search.
        WANDB_API_KEY, WANDB_MODE, WANDB_DIR, WANDB_RUN_ID and the others: as the client reads them.

    Points have their own step axis, ``train/global_step``, so that steps that are trained again after a resume are
    not dropped: they are told again, and drawn at the same place. A resumed run goes on in the same W&B run;
    offline, its file holds what a killed process had told too.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("wandb>=0.17",)
    extra: ClassVar[str] = "wandb"
    hint: ClassVar[str] = "WANDB_BASE_URL and WANDB_API_KEY, or set WANDB_MODE=offline"

    _run: Any = None
    _is_ours = True
    _name = ""

    def unavailable_because(self) -> str | None:
        """Say that there is no key, or that the user turned W&B off."""
        if _is_disabled():
            return "WANDB_DISABLED is set"
        return None if _is_local() or _has_key() else "no API key; set WANDB_API_KEY, or WANDB_MODE=offline"

    def watches(self) -> Collection[str]:
        """Watch what WANDB_WATCH says."""
        return () if _is_disabled() else _WATCH.get(_word("WANDB_WATCH"), ())

    def takes_final_model(self) -> bool:
        """Take it as WANDB_LOG_MODEL says."""
        return not _is_disabled() and _LOG_MODEL.get(_word("WANDB_LOG_MODEL"), "false") != "false"

    def load(self) -> None:
        """Import the client."""
        import wandb  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin or go on with the W&B run.

        Raises:
            ConnectionError: the service does not answer, or refuses.
            PermissionError: there is no key; nothing is asked for.
            ValueError: a variable is none of its words.
        """
        import wandb

        _check("WANDB_LOG_MODEL", ("checkpoint", "end", "false"), _LOG_MODEL)
        _check("WANDB_WATCH", ("gradients", "parameters", "all", "false"), _WATCH)
        self._is_ours = wandb.run is None
        if _is_local():  # a killed process loses what the client had not written into its file
            self._tell_again(run)
        if wandb.run is None:
            is_online = not (_is_disabled() or _is_local())
            if is_online:
                _check_service()
            with begins(self.hint) if is_online else nullcontext():
                self._run = wandb.init(**_settings(run))
        else:
            self._run = wandb.run
        given = run.name if run.name != run.output_dir else None
        self._name = _NOT_IN_NAMES.sub("-", run.trial or given or str(self._run.id))[:100]
        self._run.config.update({**run.model, **run.arguments, **run.trial_params}, allow_val_change=True)
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP, step_sync=True)
        return None if _is_disabled() else str(self._run.id)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self._run.log({**metrics, _STEP: step})

    def log_media(self, media: Media) -> None:
        """Log a picture, a text or a histogram."""
        import wandb

        if media.kind == "image":
            value: Any = wandb.Image(media.path)
        elif media.kind == "text":
            with open(media.path, encoding="utf-8") as file:
                value = wandb.Html(f"<pre>{escape(file.read())}</pre>")
        else:
            import numpy as np

            with np.load(media.path) as values:
                value = wandb.Histogram(np_histogram=(values["counts"], values["edges"]))
        self._run.log({media.name: value, _STEP: media.step})

    def log_histograms(self, kind: str, histograms: Mapping[str, tuple[Any, Any]], step: int) -> None:
        """Log one for each parameter, in one row."""
        import wandb

        values = {f"{kind}/{name}": wandb.Histogram(np_histogram=found) for name, found in histograms.items()}
        self._run.log({**values, _STEP: step})

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder; a checkpoint only as WANDB_LOG_MODEL says."""
        import wandb

        name, kind, alias = _NOT_IN_NAMES.sub("-", artifact.name), "folder", f"step-{artifact.step}"
        if artifact.is_final_model:
            name, kind, alias = f"model-{self._name}", "model", "final_model"
        elif artifact.is_checkpoint:
            if _LOG_MODEL[_word("WANDB_LOG_MODEL")] != "checkpoint":
                return
            name, kind = f"checkpoint-{self._name}", "model"
        kept = wandb.Artifact(name, type=kind, metadata={"step": artifact.step, **artifact.metadata})
        if os.path.isdir(artifact.path):
            kept.add_dir(artifact.path)
        elif "://" in artifact.path:
            kept.add_reference(artifact.path)
        else:
            kept.add_file(artifact.path)
        self._run.log_artifact(kept, aliases=[alias])

    def finish(self, status: Status, error: str | None) -> None:
        """End the run, unless somebody else began it."""
        self._run.summary["status"] = status
        if error is not None:
            self._run.summary["error"] = error
        if self._is_ours:
            self._run.finish(exit_code=_EXIT_CODES[status])


def _settings(run: Run) -> dict[str, Any]:
    import wandb

    settings: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT") or "huggingface",
        "resume": "allow",
        "group": os.environ.get("WANDB_RUN_GROUP") or run.group,
        "name": os.environ.get("WANDB_NAME") or run.trial or run.name,
    }
    if _is_disabled():
        settings["mode"] = "disabled"
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings["settings"] = wandb.Settings(init_timeout=_INIT_S)
    if "WANDB_RUN_ID" not in os.environ:
        # Ours from the start: a run that is killed before anything else is written goes on in the same one.
        settings["id"] = run.remote_id or run.run_id
    return settings


def _check_service() -> None:
    """Refuse what `wandb.init` would ask a person for, or try for minutes.

    Raises:
        ConnectionError: nobody answers at the service's address.
        PermissionError: there is no key.
    """
    import requests
    import wandb

    if not _has_key():
        raise PermissionError(_KEYLESS)
    address = wandb.setup().settings.base_url
    try:
        requests.head(address, timeout=_ANSWER_S)  # any answer will do
    except requests.RequestException as error:
        raise ConnectionError(
            f"{address} does not answer ({type(error).__name__}); set WANDB_BASE_URL to your server, or "
            "WANDB_MODE=offline to send the run later with `wandb sync`"
        ) from error


def _word(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _check(name: str, shown: Collection[str], words: Collection[str]) -> None:
    if _word(name) not in words:
        raise ValueError(f"{name}={os.environ[name]!r} is none of {', '.join(map(repr, shown))}")


def _is_disabled() -> bool:
    return _word("WANDB_DISABLED") in ("1", "true", "yes", "on")


def _is_local() -> bool:
    mode = _word("WANDB_MODE")
    if mode:
        return mode in _LOCAL_MODES
    import wandb

    return wandb.setup().settings.mode in _LOCAL_MODES  # `wandb offline` writes it into a file


def _has_key() -> bool:
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
