"""Files of results beside a run's checkpoints, on the disk or behind a URL."""

from __future__ import annotations

import json
import os
from typing import Any

from hftrain.checkpoint.storage import is_url, join, storage_for
from hftrain.types.state import TrainerState


def read_results(path: str) -> dict[str, Any]:
    """Return the metrics in a file; none if it is not there."""
    try:
        with storage_for(path).read(path) as file:
            metrics: dict[str, Any] = json.loads(file.read())
    except FileNotFoundError:
        return {}
    return metrics


def write_results(path: str, metrics: dict[str, Any]) -> None:
    """Write metrics as JSON. Raises TypeError for what JSON does not have."""
    text = json.dumps(metrics, indent=4, sort_keys=True, default=_plain_number)
    storage_for(path).write(path, [text.encode()])


def write_state(state: TrainerState, folder: str) -> None:
    """Write ``trainer_state.json`` into a folder."""
    path = join(folder, "trainer_state.json")
    if is_url(folder):  # asked again where the store fails, which the state's own writing does not do
        storage_for(path).write(path, [state.to_json().encode()])
        return
    os.makedirs(folder, exist_ok=True)
    state.save_to_json(path)


def _plain_number(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a numpy or torch scalar, as metric functions return them
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__}) is no JSON: save plain numbers and strings as metrics.")
