"""Train the same model with hftrain and with transformers, and write down what each did."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import hftrain
from hftrain.types.choices import Event
from tests.parity.models import Perceptron, flat, points

TOLERANCE = 1e-6

EVENTS = tuple(event.value for event in Event)

# The reference adds losses up in float32: where the mean lies between two numbers of four digits, either is logged.
LAST_DIGIT = 1.01e-4

# Times differ from run to run.
MEASURED = ("runtime", "per_second", "model_preparation_time")


def ours() -> Any:
    """Return hftrain's names."""
    names = ("Trainer", "TrainingArguments", "TrainerCallback", "EarlyStoppingCallback")
    return SimpleNamespace(name="hftrain", **{name: getattr(hftrain, name) for name in names})


def theirs() -> Any:
    """Return the reference's names."""
    import transformers

    names = ("Trainer", "TrainingArguments", "TrainerCallback", "EarlyStoppingCallback")
    return SimpleNamespace(name="transformers", **{name: getattr(transformers, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid: what is trained, on what, and with which arguments.

    Attributes:
        model: makes the model, after seeding.
        data: makes the training data.
        eval_data: makes the evaluation data, or None.
        args: of TrainingArguments.
        trainer: further parameters of the Trainer.
        callbacks: makes them, given the library.
        optimizers: makes ``optimizers`` given the model, or None.
        subclass: the class to record, given the library.
        use: what is done with the trainer beside `train`: called before and after it, as the first argument says.
        steps: the least number of optimizer steps that the cell must make, or it proves nothing.
        tolerance: of losses, learning rates and weights, and relative of grad norms.
    """

    model: Callable[[], nn.Module] = Perceptron
    data: Callable[[], Any] = points
    eval_data: Callable[[], Any] | None = None
    args: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[Any], list[Any]] = lambda library: []
    optimizers: Callable[[nn.Module], Any] | None = None
    subclass: Callable[[Any], Any] = lambda library: library.Trainer
    use: Callable[[str, Any], None] = lambda when, trainer: None
    steps: int = 100
    tolerance: float = TOLERANCE


@dataclass(kw_only=True)
class Record:
    """What one library did.

    Attributes:
        losses: what `compute_loss` returned, in training, unrounded.
        rows: the log history.
        events: each event with the step at which it was told.
        keywords: event -> names of the keyword arguments that a callback got, and whether each was None.
        weights: of the trained model.
        state: the fields of the trainer's state.
        training_loss: of the TrainOutput.
    """

    losses: Tensor
    rows: list[dict[str, Any]]
    events: list[tuple[str, int]]
    keywords: dict[str, list[str]]
    weights: Tensor
    state: dict[str, Any]
    training_loss: float


ADDED_KEYWORDS = {"on_save": ["checkpoint"]}
"""What callbacks get beside the reference's: an intended difference, since a save may be told of at a later step."""


def recorder(library: Any, events: list[tuple[str, int]], keywords: dict[str, list[str]]) -> Any:
    """Return a callback of the library that writes every event down."""

    def method(name: str) -> Callable[..., None]:
        def on_event(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            events.append((name, state.global_step))
            keywords[name] = sorted(f"{key}{'=None' if value is None else ''}" for key, value in kwargs.items())

        return on_event

    return type("Recorder", (library.TrainerCallback,), {name: method(name) for name in EVENTS})()


def build(library: Any, cell: Cell, folder: Path, losses: list[Tensor], callbacks: list[Any], **changes: Any) -> Any:
    """Return the cell's trainer, writing every training loss into ``losses``."""

    class Recording(cell.subclass(library)):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if model.training:
                losses.append((result[0] if return_outputs else result).detach().clone())
            return result

    options = {
        "per_device_train_batch_size": 8,
        "num_train_epochs": 13,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        **cell.args,
        **changes,
    }
    torch.manual_seed(0)
    model = cell.model()
    return Recording(
        model=None if "model_init" in cell.trainer else model,
        args=library.TrainingArguments(str(folder / library.name), **options),
        train_dataset=cell.data(),
        eval_dataset=cell.eval_data() if cell.eval_data is not None else None,
        callbacks=[*callbacks, *cell.callbacks(library)],
        **({"optimizers": cell.optimizers(model)} if cell.optimizers is not None else {}),
        **cell.trainer,
    )


def run(library: Any, cell: Cell, folder: Path, *, resume: str | None = None, **changes: Any) -> Record:
    """Train the cell with one library; ``resume`` names a checkpoint in the library's folder to go on from."""
    losses: list[Tensor] = []
    events: list[tuple[str, int]] = []
    keywords: dict[str, list[str]] = {}
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # the reference leaves it set behind a bf16 run
    trainer = build(library, cell, folder, losses, [recorder(library, events, keywords)], **changes)
    path = str(folder / library.name / resume) if resume is not None else None
    cell.use("before", trainer)
    output = trainer.train(resume_from_checkpoint=path)
    cell.use("after", trainer)
    return Record(
        losses=torch.stack(losses).double() if losses else torch.zeros(0, dtype=torch.float64),
        rows=trainer.state.log_history,
        events=events,
        keywords=keywords,
        weights=flat(trainer.model),
        state=asdict(trainer.state),
        training_loss=output.training_loss,
    )


def both(cell: Cell, folder: Path, **options: Any) -> tuple[Record, Record]:
    """Return (ours, theirs)."""
    return run(ours(), cell, folder, **options), run(theirs(), cell, folder, **options)


# ---- comparing -----------------------------------------------------------------------------------------


def differences(cell: Cell, mine: Record, reference: Record) -> dict[str, float]:
    """Return the largest difference of each kind of number; infinite where the counts differ."""
    return {
        "loss": _largest(mine.losses, reference.losses),
        "grad_norm": _largest(*_columns(mine, reference, "grad_norm"), relative=True),
        "learning_rate": _largest(*_columns(mine, reference, "learning_rate")),
        "weights": _largest(mine.weights, reference.weights),
        "train_loss": abs(mine.training_loss - reference.training_loss),
    }


def row_differences(mine: Record, reference: Record, *, tolerance: float = TOLERANCE) -> list[str]:
    """Return one line for each row, key or value of the log history that differs; times are compared by name only."""
    found = []
    if len(mine.rows) != len(reference.rows):
        found.append(f"{len(mine.rows)} rows, expected {len(reference.rows)}")
    for index, (row, expected) in enumerate(zip(mine.rows, reference.rows, strict=False)):
        if list(row) != list(expected):
            found.append(f"row {index}: {list(row)}, expected {list(expected)}")
        found.extend(
            f"row {index}: {name} {row[name]!r}, expected {value!r}"
            for name, value in expected.items()
            if name in row
            and not name.endswith(MEASURED)
            and not _close(row[name], value, LAST_DIGIT if name == "loss" else tolerance)
        )
    return found


def state_differences(mine: Record, reference: Record) -> list[str]:
    """Return one line for each field of the trainer's state that differs; folders are compared by their last name."""
    found = []
    for name, expected in reference.state.items():
        value = mine.state[name]
        if name == "best_global_step" and expected is None:
            continue  # documented as where the best was seen; the reference keeps it for two strategies only
        if name == "best_model_checkpoint":
            value, expected = (path and Path(path).name for path in (value, expected))
        if name not in ("log_history", "stateful_callbacks") and not _close(value, expected, TOLERANCE):
            found.append(f"state.{name} {value!r}, expected {expected!r}")
    return found


def problems(cell: Cell, mine: Record, reference: Record) -> list[str]:
    """Return one line for everything in which the two differ."""
    numbers = differences(cell, mine, reference)
    found = [f"{kind} differs by {value:.1e}" for kind, value in numbers.items() if not value <= cell.tolerance]
    found += row_differences(mine, reference) + state_differences(mine, reference)
    if mine.events != reference.events:
        found.append("another order of events")
    found += [
        f"{event} gets {mine.keywords.get(event)}, expected {keywords}"
        for event, keywords in reference.keywords.items()
        if mine.keywords.get(event) != sorted([*keywords, *ADDED_KEYWORDS.get(event, ())])
    ]
    if mine.state["global_step"] < cell.steps:
        found.append(f"only {mine.state['global_step']} steps")
    return found


def _columns(mine: Record, reference: Record, name: str) -> tuple[Tensor, Tensor]:
    columns = ([row[name] for row in record.rows if name in row] for record in (mine, reference))
    first, second = (torch.tensor(column, dtype=torch.float64) for column in columns)
    return first, second


def _largest(mine: Tensor, reference: Tensor, *, relative: bool = False) -> float:
    if mine.shape != reference.shape:
        return float("inf")
    if not mine.numel():
        return 0.0
    distance = (mine - reference).abs()
    if relative:
        distance = distance / reference.abs().clamp_min(1e-12)
    return float("inf") if distance.isnan().any() else float(distance.max())


def _close(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(value, (int, float)) and isinstance(expected, (int, float)):
        return abs(value - expected) <= tolerance * max(1.0, abs(expected))
    return bool(value == expected)
