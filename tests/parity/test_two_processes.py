"""Two processes started by torchrun beside accelerate's two processes."""

from __future__ import annotations

import json
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launch import launch
from tests.parity.harness import TOLERANCE, Cell, ours, run, theirs
from tests.parity.models import causal_lm, classifier, pad, points, ragged, sentences

# The first test of each library trains every cell.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WINDOWS: dict[str, Any] = {"gradient_accumulation_steps": 3, "num_train_epochs": 40}

SYNC_EACH: dict[str, Any] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}

CELLS: dict[str, Cell] = {
    "defaults": Cell(args={"num_train_epochs": 26}),
    "a partial last batch": Cell(data=lambda: points(52), args={"num_train_epochs": 26}),
    "partial last windows": Cell(data=lambda: points(76), args={**WINDOWS, "num_train_epochs": 52}),
    "split batches": Cell(args={"accelerator_config": {"split_batches": True}}),
    "a last batch left out": Cell(data=lambda: points(52), args={"dataloader_drop_last": True, "num_train_epochs": 34}),
    "100 steps": Cell(args={"max_steps": 100}),
    "items counted by each process": Cell(
        model=causal_lm, data=lambda: sentences(68), args={**WINDOWS, "max_steps": 100}
    ),
    "items counted over the processes": Cell(
        model=causal_lm,
        data=lambda: sentences(68),
        args={**WINDOWS, "max_steps": 100, "average_tokens_across_devices": True},
    ),
    "gradients averaged each time": Cell(
        data=lambda: points(76),
        args={**WINDOWS, "max_steps": 100, "accelerator_config": SYNC_EACH},
    ),
    "dispatched batches": Cell(args={"max_steps": 100, "accelerator_config": {"dispatch_batches": True}}),
    "an unseeded sampler": Cell(args={"max_steps": 100, "accelerator_config": {"use_seedable_sampler": False}}),
    # With dropout the reference's processes draw apart, so that their orders do too and samples are left out.
    "grouped by length": Cell(
        model=partial(classifier, dropout=0.0),
        data=ragged,
        args={"max_steps": 100, "group_by_length": True},
        trainer={"data_collator": pad},
    ),
    # In a last round that is not full the reference averages the samples in that it fills it up with.
    "evaluation in between": Cell(
        args={"max_steps": 100, "eval_strategy": "steps", "eval_steps": 9}, eval_data=lambda: points(48, seed=1)
    ),
}


def train_all(name: str, folder: str) -> dict[str, Any]:
    """Train every cell with the library of this name; what failed says why."""
    library = {"hftrain": ours, "transformers": theirs}[name]()
    found: dict[str, Any] = {}
    for cell, what in CELLS.items():
        try:
            record = run(library, what, Path(folder), ddp_backend="gloo")
        except Exception as error:
            found[cell] = f"{type(error).__name__}: {error}"
        else:
            rows = [
                {k: v for k, v in row.items() if "per_second" not in k and "runtime" not in k} for row in record.rows
            ]
            found[cell] = [record.losses.tolist(), record.weights.tolist(), rows, record.events, record.training_loss]
    return found


@cache
def both() -> tuple[list[Any], list[Any]]:
    """Return what each rank of either library did: (ours, theirs)."""
    with tempfile.TemporaryDirectory() as folder:
        mine = launch(train_all, "hftrain", folder, timeout_s=600)
        return mine, launch(train_all, "transformers", folder, timeout_s=600)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_does_what_the_references_does(name: str, rank: int) -> None:
    mine, expected = (ranks[rank][name] for ranks in both())
    assert not isinstance(mine, str), mine
    assert not isinstance(expected, str), expected
    for numbers, reference in zip(mine[:2], expected[:2], strict=True):
        assert len(numbers) == len(reference)
        assert (torch.tensor(numbers) - torch.tensor(reference)).abs().max() <= TOLERANCE
    assert json.dumps(mine[3]) == json.dumps(expected[3])
    assert mine[4] == pytest.approx(expected[4], abs=TOLERANCE)
    for row, other in zip(mine[2], expected[2], strict=True):
        assert list(row) == list(other)
        assert row == pytest.approx(other, abs=1.01e-4, rel=TOLERANCE)


def go_on(name: str, folder: str) -> list[Any]:
    """Train; here, go on from the middle of an epoch as well. Return the losses from there on, and the weights."""
    library = {"hftrain": ours, "transformers": theirs}[name]()
    cell = Cell(args={"max_steps": 60, "save_strategy": "steps", "save_steps": 22, "gradient_accumulation_steps": 2})
    record = run(library, cell, Path(folder), ddp_backend="gloo")
    if name == "hftrain":
        record = run(library, cell, Path(folder), ddp_backend="gloo", resume="checkpoint-22")
    return [record.losses[-76:].tolist(), len(record.losses), record.weights.tolist()]


def test_two_processes_go_on_as_if_the_references_had_not_been_interrupted(tmp_path: Path) -> None:
    # The reference cannot read its own checkpoints in several CPU processes: their tensors are tagged cpu:0.
    mine, expected = (launch(go_on, name, str(tmp_path), timeout_s=600) for name in ("hftrain", "transformers"))
    for (losses, trained, weights), reference in zip(mine, expected, strict=True):
        assert (trained, reference[1]) == (76, 120)
        assert losses == pytest.approx(reference[0], abs=TOLERANCE)
        assert weights == pytest.approx(reference[2], abs=TOLERANCE)
