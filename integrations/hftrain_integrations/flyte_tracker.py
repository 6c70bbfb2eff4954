"""Flyte: the deck and the checkpoint of the task that trains."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Media, Run, Status, Tracker
from hftrain_integrations._told_again import events_before


class FlyteTracker(Tracker):
    """Saves checkpoints with the running task's, and shows the rows in its deck when the run ends.

    The task is to be declared with ``@task(enable_deck=True)``, and `train` to be called inside it. The deck of a
    resumed run has the rows before it too; a killed process leaves none.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("flytekit>=1.16",)
    extra: ClassVar[str] = "flyte"

    _checkpoint: Any = None
    _rows: dict[int, dict[str, float]]
    _media: list[str]

    def unavailable_because(self) -> str | None:
        """Say that this is no task."""
        return None if _checkpoint_of_task() is not None else _HINT

    def load(self) -> None:
        """Import the client."""
        import flytekit  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Take the task's checkpoint.

        Raises:
            RuntimeError: no task is running here.
        """
        self._checkpoint = _checkpoint_of_task()
        if self._checkpoint is None:
            raise RuntimeError(_HINT)
        self._rows, self._media = {}, []
        self._run = run
        for event in events_before(run):
            if event.type == "log":
                self.deliver(event)
        return run.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep the numbers of a step for the deck."""
        self._rows.setdefault(step, {}).update(metrics)

    def log_media(self, media: Media) -> None:
        """Keep a picture or a text for the deck."""
        if media.kind == "image":
            with open(media.path, "rb") as file:
                shown = f'<img src="data:image/png;base64,{base64.b64encode(file.read()).decode()}">'
        elif media.kind == "text":
            with open(media.path, encoding="utf-8") as file:
                shown = f"<pre>{html.escape(file.read())}</pre>"
        else:
            return
        self._media.append(f"<h3>{html.escape(media.name)}, step {media.step}</h3>{shown}")

    def log_artifact(self, artifact: Artifact) -> None:
        """Save a checkpoint as the task's: it is handed to the task when it is run again."""
        if artifact.is_checkpoint and os.path.isdir(artifact.path):
            self._checkpoint.save(artifact.path)

    def finish(self, status: Status, error: str | None) -> None:
        """Write the deck."""
        from flytekit import Deck

        run = self._run
        told = {"status": status, "error": error, "group": run.group, "trial": run.trial}
        facts = {name: value for name, value in told.items() if value is not None}
        Deck("Log History", _table(self._rows))
        for name, values in (
            ("Run", {**facts, **run.trial_params}),
            ("Arguments", run.arguments),
            ("Model", run.model),
        ):
            Deck(name, _listed(values))
        if self._media:
            Deck("Media", "".join(self._media))
        if status != "finished":  # the deck of a task that raises is not written otherwise
            Deck.publish()


_HINT = "no Flyte task is running here; call train() inside a function with @task(enable_deck=True)"


def _checkpoint_of_task() -> Any:
    from flytekit import current_context

    try:
        return current_context().checkpoint
    except (NotImplementedError, AttributeError, AssertionError):
        return None


def _listed(values: Mapping[str, Any]) -> str:
    return "".join(f"<p>{html.escape(f'{name} = {value}')}</p>" for name, value in values.items())


def _table(rows: Mapping[int, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("step", *names))
    lines = (
        f"<tr><td>{step}</td>{''.join(f'<td>{row.get(name, str())}</td>' for name in names)}</tr>"
        for step, row in sorted(rows.items())
    )
    return f"<table border=1><tr>{head}</tr>{''.join(lines)}</table>"
