"""Weights & Biases."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker

logger = logging.getLogger(__name__)

_STEP = "train/global_step"
_LOCAL_MODES = ("offline", "dryrun", "disabled")
_LOG_MODEL = {"": "false", "false": "false", "0": "false", "end": "end", "true": "end", "1": "end"}
_EXIT_CODES = {"finished": 0, "pruned": 0, "failed": 1, "interrupted": 255}


class WandbTracker(Tracker):
    """Logs to a W&B run: the one that is active, or one of its own.

    Environment:
        WANDB_PROJECT: the project, "huggingface" by default.
        WANDB_LOG_MODEL: "checkpoint" keeps every checkpoint as an artifact, "end" the last one, "false" none.
        WANDB_API_KEY, WANDB_MODE, WANDB_RUN_ID and the others: as the client reads them.

    Points have their own step axis, ``train/global_step``, so that steps that are trained again after a resume are
    not dropped. A resumed run goes on in the same W&B run.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("wandb>=0.17",)
    extra: ClassVar[str] = "wandb"

    _run: Any = None
    _is_ours = True
    _keeps = "false"
    _last: Artifact | None = None

    def unavailable_because(self) -> str | None:
        """Say that there is no key, or that the user turned W&B off."""
        if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
            return "WANDB_DISABLED is set"
        return None if _is_local() or _has_key() else "no API key; set WANDB_API_KEY, or WANDB_MODE=offline"

    def start(self, run: Run) -> str | None:
        """Begin or go on with the W&B run.

        Raises:
            PermissionError: there is no key; nothing is asked for.
            ValueError: WANDB_LOG_MODEL is none of its words.
        """
        import wandb

        self._keeps = _log_model()
        if not _is_local() and not _has_key():
            raise PermissionError("no API key: set WANDB_API_KEY or run `wandb login`, or set WANDB_MODE=offline")
        self._is_ours = wandb.run is None
        self._run = wandb.run if wandb.run is not None else wandb.init(**_settings(run))
        self._run.config.update({**run.model, **run.arguments, **run.trial_params}, allow_val_change=True)
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP, step_sync=True)
        return str(self._run.id)

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
                value = wandb.Html(f"<pre>{_escaped(file.read())}</pre>")
        else:
            import numpy as np

            with np.load(media.path) as values:
                value = wandb.Histogram(np_histogram=(values["counts"], values["edges"]))
        self._run.log({media.name: value, _STEP: media.step})

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder; a checkpoint only as WANDB_LOG_MODEL says."""
        if not artifact.is_checkpoint or self._keeps == "checkpoint":
            self._keep(artifact, aliases=[f"step-{artifact.step}"])
        elif self._keeps == "end":
            self._last = artifact

    def finish(self, status: Status, error: str | None) -> None:
        """End the run, unless somebody else began it."""
        if self._last is not None:
            self._keep(self._last, aliases=["end"])
            self._last = None
        self._run.summary["status"] = status
        if error is not None:
            self._run.summary["error"] = error
        if self._is_ours:
            self._run.finish(exit_code=_EXIT_CODES[status])

    def _keep(self, artifact: Artifact, *, aliases: list[str]) -> None:
        import wandb

        kind = "model" if artifact.is_checkpoint else "folder"
        name = f"{artifact.name if not artifact.is_checkpoint else 'checkpoint'}-{self._run.id}"
        kept = wandb.Artifact(name, type=kind, metadata={"step": artifact.step, **artifact.metadata})
        if os.path.isdir(artifact.path):
            kept.add_dir(artifact.path)
        elif "://" in artifact.path:
            kept.add_reference(artifact.path)
        else:
            kept.add_file(artifact.path)
        self._run.log_artifact(kept, aliases=aliases)


def _settings(run: Run) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT", "huggingface"),
        "resume": "allow",
        "group": os.environ.get("WANDB_RUN_GROUP") or run.group,
        "name": os.environ.get("WANDB_NAME") or run.trial or run.name,
    }
    if "WANDB_RUN_ID" not in os.environ:
        # Ours from the start: a run that is killed before anything else is written goes on in the same one.
        settings["id"] = run.remote_id or run.run_id
    return settings


def _log_model() -> str:
    word = os.environ.get("WANDB_LOG_MODEL", "").lower()
    if word == "checkpoint":
        return word
    if word not in _LOG_MODEL:
        raise ValueError(f"WANDB_LOG_MODEL={word!r} is none of 'checkpoint', 'end' and 'false'")
    return _LOG_MODEL[word]


def _is_local() -> bool:
    return os.environ.get("WANDB_MODE", "").lower() in _LOCAL_MODES


def _has_key() -> bool:
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
