"""Flyte: the deck and the checkpoint of the task that trains."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Run, Status, Tracker


class FlyteTracker(Tracker):
    """Saves checkpoints with the running task's, and shows the rows in its deck when the run ends.

    The task is to be declared with ``@task(enable_deck=True)``, and the Trainer to be made inside it.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("flytekit>=1.16",)
    extra: ClassVar[str] = "flyte"

    _checkpoint: Any = None
    _rows: dict[int, dict[str, float]]

    def unavailable_because(self) -> str | None:
        """Say that this is no task."""
        return None if _checkpoint_of_task() is not None else _HINT

    def start(self, run: Run) -> str | None:
        """Take the task's checkpoint.

        Raises:
            RuntimeError: no task is running here.
        """
        self._checkpoint = _checkpoint_of_task()
        if self._checkpoint is None:
            raise RuntimeError(_HINT)
        self._rows = {}
        self._run = run
        return run.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep the numbers of a step for the deck."""
        self._rows.setdefault(step, {}).update(metrics)

    def log_artifact(self, artifact: Artifact) -> None:
        """Save a checkpoint as the task's: it is handed to the task when it is run again."""
        if artifact.is_checkpoint and os.path.isdir(artifact.path):
            self._checkpoint.save(artifact.path)

    def finish(self, status: Status, error: str | None) -> None:
        """Write the deck."""
        from flytekit import Deck

        facts = {"status": status, **({} if error is None else {"error": error}), **self._run.arguments}
        Deck("Log History", _table(self._rows))
        Deck("Run", "".join(f"<p>{html.escape(str(name))} = {html.escape(str(it))}</p>" for name, it in facts.items()))


_HINT = "no Flyte task is running here; call train() inside a function with @task(enable_deck=True)"


def _checkpoint_of_task() -> Any:
    from flytekit import current_context

    try:
        return current_context().checkpoint
    except (NotImplementedError, AttributeError, AssertionError):
        return None


def _table(rows: Mapping[int, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("step", *names))
    lines = (
        f"<tr><td>{step}</td>{''.join(f'<td>{row.get(name, str())}</td>' for name in names)}</tr>"
        for step, row in sorted(rows.items())
    )
    return f"<table border=1><tr>{head}</tr>{''.join(lines)}</table>"
