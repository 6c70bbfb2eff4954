"""A checkpoint that the reference wrote is resumed here, and goes on as the reference goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.launch import launch
from tests.parity.harness import Cell, Record, build, differences, ours, row_differences, run, theirs
from tests.parity.models import causal_lm, classified, classifier, gpt2, sentences

# The reference's own warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

CELLS: dict[str, tuple[Cell, int]] = {
    "inside an epoch, with dropout": (Cell(), 11),
    "at the end of an epoch": (Cell(), 16),
    "inside an epoch of windows": (Cell(args={"gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"}), 5),
    # Inside such an epoch the reference loses the step of its last window.
    "after an epoch whose last window is short": (Cell(args={"gradient_accumulation_steps": 3}), 6),
    "warmed up, without decay, clipped": (
        Cell(args={"warmup_steps": 5, "weight_decay": 0.1, "max_grad_norm": 0.1, "max_steps": 30}),
        11,
    ),
    "a language model with tied weights": (Cell(model=gpt2, data=sentences), 11),
    "a loss weighted by items": (Cell(model=causal_lm, data=sentences, args={"gradient_accumulation_steps": 2}), 5),
    "a classifier": (Cell(model=classifier, data=classified), 11),
    "adafactor": (Cell(args={"optim": "adafactor"}), 11),
    "an optimizer with momentum": (Cell(args={"optim": "sgd", "optim_args": "momentum=0.9"}), 11),
}


def written(cell: Cell, step: int, folder: Path, **changes: Any) -> Path:
    """Have the reference train the cell and keep its checkpoint of a step."""
    trainer = build(theirs(), cell, folder, [], [], save_strategy="steps", save_steps=step, **changes)
    trainer.train()
    kept = folder / f"checkpoint-{step}"
    shutil.copytree(folder / "transformers" / kept.name, kept)
    return kept


def resumed(cell: Cell, checkpoint: Path, folder: Path, **changes: Any) -> tuple[Record, Record]:
    """Return (ours, theirs) going on from it."""
    path = str(checkpoint)
    return run(ours(), cell, folder, resume=path, **changes), run(theirs(), cell, folder, resume=path, **changes)


@pytest.mark.parametrize("name", CELLS)
def test_a_run_of_the_reference_goes_on_as_there(name: str, tmp_path: Path) -> None:
    cell, step = CELLS[name]
    changes = {} if "max_steps" in cell.args else {"num_train_epochs": 4}
    mine, reference = resumed(cell, written(cell, step, tmp_path, **changes), tmp_path, **changes)
    found = differences(cell, mine, reference)
    assert mine.state["global_step"] == reference.state["global_step"]
    assert {kind: value for kind, value in found.items() if value > cell.tolerance} == {}
    assert len(mine.losses) >= 10


def test_pickled_weights_are_read(tmp_path: Path) -> None:
    checkpoint = written(Cell(), 11, tmp_path, num_train_epochs=2, save_safetensors=False)
    assert (checkpoint / "pytorch_model.bin").exists()
    mine, reference = resumed(Cell(), checkpoint, tmp_path, num_train_epochs=2)
    assert differences(Cell(), mine, reference)["weights"] <= Cell().tolerance


TWO_PROCESSES: dict[str, Any] = {
    "num_train_epochs": 4,
    "save_strategy": "steps",
    "save_steps": 5,
    "ddp_backend": "gloo",
}


def in_two_processes(name: str, folder: str, resume: str | None) -> list[Any]:
    """Train with the library of this name; give each step's loss, and the weights."""
    library = {"hftrain": ours, "transformers": theirs}[name]()
    record = run(library, Cell(), Path(folder), resume=resume, **TWO_PROCESSES)
    return [record.losses.tolist(), record.weights.tolist()]


@pytest.mark.slow
def test_two_processes_of_the_reference_go_on_as_if_uninterrupted(tmp_path: Path) -> None:
    # There they cannot go on at all on the CPU: torch knows no device "cpu:0" to load an optimizer to.
    whole = launch(in_two_processes, "transformers", str(tmp_path), None)
    checkpoint = shutil.copytree(tmp_path / "transformers/checkpoint-5", tmp_path / "checkpoint-5")
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {file.name for file in checkpoint.iterdir()}
    resumed = launch(in_two_processes, "hftrain", str(tmp_path), str(checkpoint))
    for (losses, weights), (expected, expected_weights) in zip(resumed, whole, strict=True):
        assert losses == pytest.approx(expected[5:], abs=Cell().tolerance)
        assert weights == pytest.approx(expected_weights, abs=Cell().tolerance)


def test_the_rows_of_both_parts_are_kept(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_train_epochs": 2, "logging_steps": 3}
    mine, reference = resumed(Cell(), written(Cell(), 11, tmp_path, **changes), tmp_path, **changes)
    assert [row["step"] for row in mine.rows] == [3, 6, 9, 12, 15, 16]
    assert row_differences(mine, reference) == []
