"""What is known about a run while it runs; ``trainer_state.json`` holds exactly these fields."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hftrain.errors import CheckpointError, ConfigurationError
from hftrain.types.control import ExportableState
from hftrain.types.state_fields import wrong_fields

__all__ = ["ExportableState", "TrainerState", "export_states"]

logger = logging.getLogger(__name__)


@dataclass
class TrainerState:
    """Where a run stands, what it logged and which checkpoint is its best.

    Callbacks receive it with every event and should change nothing but their own entries.

    Attributes:
        epoch: Epochs done, with the current one as a fraction; None before training.
        global_step: Optimizer updates done.
        max_steps: Optimizer updates that the run will make.
        logging_steps: Updates between log rows.
        eval_steps: Updates between evaluations.
        save_steps: Updates between checkpoints.
        train_batch_size: Samples per device and micro-batch; None before training.
        num_train_epochs: Epochs that the run will make, rounded up.
        num_input_tokens_seen: Tokens seen in training; counted only with ``include_num_input_tokens_seen``.
        total_flos: Floating point operations since the start of training.
        log_history: Every row that was logged.
        best_metric: The best value of ``metric_for_best_model`` so far.
        best_global_step: The update at which it was reached.
        best_model_checkpoint: The folder of the checkpoint that was saved there.
        is_local_process_zero: Whether this is the first process of its machine.
        is_world_process_zero: Whether this is the first process of all.
        is_hyper_param_search: Whether this run is one trial of a search.
        trial_name: The trial's name.
        trial_params: The trial's hyperparameters.
        stateful_callbacks: Exported states by class name, a list of them where a class occurs more
            than once. Accepts the callbacks themselves, in a list.
    """

    epoch: float | None = None
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    # The documented default of the next two is None, and no reader ever meets it: __post_init__ replaces it.
    log_history: list[dict[str, float]] = None  # type: ignore[assignment]
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, str | float | int | bool] | None = None
    stateful_callbacks: dict[str, Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        rows: Any = self.log_history
        self.log_history = [] if rows is None else rows
        callbacks: Any = self.stateful_callbacks or {}
        self.stateful_callbacks = callbacks if isinstance(callbacks, dict) else export_states(callbacks)

    def to_json(self) -> str:
        """Return every field as the text of ``trainer_state.json``."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, default=_plain_number) + "\n"

    def save_to_json(self, json_path: str | os.PathLike[str]) -> None:
        """Write every field to ``json_path``, a path or a URL: an existing file stays whole until the new one is."""
        if "://" in str(json_path):
            import fsspec  # imported when a URL is used

            with fsspec.open(str(json_path), "w", encoding="utf-8") as file:
                file.write(self.to_json())
            return
        path = Path(json_path)
        unfinished = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        unfinished.write_text(self.to_json(), encoding="utf-8")
        os.replace(unfinished, path)

    @classmethod
    def load_from_json(cls, json_path: str | os.PathLike[str]) -> TrainerState:
        """Read what ``save_to_json``, here or in the reference, wrote.

        A field of a newer version that is unknown here is left out, and a log line names it.

        Raises:
            CheckpointError: The file is not a JSON object, or a field of it is not what it must be.
        """
        if "://" in str(json_path):
            import fsspec  # imported when a URL is used

            with fsspec.open(str(json_path), encoding="utf-8", mode="r") as file:
                text = file.read()
        else:
            text = Path(json_path).read_text(encoding="utf-8")
        try:
            document = json.loads(text)
        except ValueError as error:
            raise CheckpointError(f"{json_path} is not valid JSON ({error}); choose another checkpoint.") from error
        if not isinstance(document, dict):
            raise CheckpointError(f"{json_path} holds a {type(document).__name__}, not the fields of a TrainerState.")
        wrong = wrong_fields(document)
        if wrong:
            raise CheckpointError(f"{json_path} has {'; '.join(wrong)}. Choose another checkpoint.")
        known = {field.name for field in fields(cls)}
        unknown = sorted(document.keys() - known)
        if unknown:
            logger.warning("%s has fields that this version does not know and leaves out: %s", json_path, unknown)
        return cls(**{name: value for name, value in document.items() if name in known})

    def compute_steps(self, args: Any, max_steps: int) -> None:
        """Take logging, eval and save steps from ``args``; one below 1 is a share of ``max_steps``, rounded up."""
        for name in ("logging_steps", "eval_steps", "save_steps"):
            steps = getattr(args, name)
            if steps is not None:
                setattr(self, name, math.ceil(max_steps * steps) if steps < 1 else int(steps))

    def init_training_references(self, trainer: Any, max_steps: int, num_train_epochs: int, trial: Any | None) -> None:
        """Take from ``trainer`` what a new training needs to know of it.

        Args:
            trainer: Has ``is_local_process_zero()`` and ``is_world_process_zero()``; inside a search also
                ``hp_name`` (a trial -> its name) and ``_trial``.
            max_steps: Optimizer updates to make.
            num_train_epochs: Epochs to make, rounded up.
            trial: The search's trial, a mapping or an object with ``params`` or ``assignments``.

        Raises:
            ConfigurationError: ``trial`` is none of these.
        """
        hp_name, current_trial = getattr(trainer, "hp_name", None), getattr(trainer, "_trial", None)
        if hp_name is not None and current_trial is not None:
            self.trial_name = hp_name(current_trial)
        self.trial_params = None if trial is None else _trial_params(trial)
        self.max_steps = max_steps
        self.num_train_epochs = num_train_epochs
        self.is_local_process_zero = trainer.is_local_process_zero()
        self.is_world_process_zero = trainer.is_world_process_zero()


def export_states(objects: Iterable[Any]) -> dict[str, Any]:
    """The states of ``objects`` by class name; a class that occurs more than once gets a list, in order.

    Raises:
        TypeError: One of them does not inherit ``ExportableState`` (ours or the reference's).
    """
    exported: dict[str, list[dict[str, Any]]] = {}
    for item in objects:
        if not is_exportable(item):
            raise TypeError(f"{item!r} has no state to export: its class must inherit ExportableState.")
        exported.setdefault(type(item).__name__, []).append(item.state())
    return {name: states[0] if len(states) == 1 else states for name, states in exported.items()}


def is_exportable(item: object) -> bool:
    """Whether ``item`` inherits an ``ExportableState``; the reference's class counts, and is known by its name."""
    return any(base.__name__ == "ExportableState" for base in type(item).__mro__)


def _trial_params(trial: Any) -> dict[str, Any]:
    if isinstance(trial, Mapping):
        return dict(trial)
    for name in ("params", "assignments"):
        params = getattr(trial, name, None)
        if isinstance(params, Mapping):
            return dict(params)
    raise ConfigurationError(
        f"trial={trial!r} says nothing of its hyperparameters: pass a mapping, or an object with params or assignments."
    )


def _plain_number(value: Any) -> Any:
    """A zero-dimensional array or tensor (a metric, usually) as the number it holds."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written to JSON: log plain numbers and strings.")
