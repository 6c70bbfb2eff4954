"""A run over a store that drops, cuts and delays what it is given: what is committed is whole, or there is no run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain.checkpoint import patience
from hftrain.checkpoint.catalog import Status, scan
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.storage import storage_for
from hftrain.errors import CheckpointError
from tests.checkpoint.failing import FailingFileSystem, Faults
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import trainer, weights

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(patience, "WAITS_S", (0.001,) * 8)
    monkeypatch.setattr(patience, "ARRIVAL_WAITS_S", (0.0, 0.01, 0.03))
    yield f"failing://{tmp_path}/run"
    FailingFileSystem.faults = Faults()


def set_faults(**values: Any) -> Faults:
    FailingFileSystem.faults = Faults(**values)
    return FailingFileSystem.faults


def committed(output: str) -> list[int | None]:
    """The steps of the committed checkpoints, each read whole."""
    FailingFileSystem.faults = Faults()
    found = [it for it in scan(storage_for(output), output) if it.status is Status.COMMITTED]
    return [open_any(it.path, verify="full").step for it in found]


@pytest.mark.parametrize("save_async", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_a_run_goes_on_over_a_flaky_store_and_resumes_bitwise(
    output: str, tmp_path: Path, save_async: bool, seed: int
) -> None:
    whole = trainer(tmp_path / "whole", num_train_epochs=1)
    whole.train()
    settings = {**SAVING, "save_async": save_async, "save_total_limit": 2}
    faults = set_faults(drop=0.05, truncate=0.05, refuse=0.05, lag_s=0.005, delay_s=0.001, seed=seed)
    trainer(output, callbacks=[StopAt(4)], **settings).train()
    second = trainer(output, **settings)
    second.train(resume_from_checkpoint=True)
    assert faults.num_faults > 5
    assert torch.equal(weights(second.model), weights(whole.model))
    assert committed(output) == [6, 8]


@pytest.mark.parametrize(
    ("fault", "file", "save_async"),
    [
        ("drop", "optimizer.safetensors", True),
        ("drop", "MANIFEST.json", False),
        ("truncate", "MANIFEST.json", True),
        ("truncate", "rng-0.json", False),
        ("refuse", "MANIFEST.json", True),
        ("refuse", "model.safetensors", False),
    ],
)
def test_what_does_not_arrive_is_never_committed_and_nothing_older_goes(
    output: str, fault: str, file: str, save_async: bool
) -> None:
    settings = {**SAVING, "save_async": save_async, "save_total_limit": 1}
    trainer(output, callbacks=[StopAt(2)], **settings).train()
    set_faults(**{fault: 1.0}, only=file)
    with pytest.raises(CheckpointError, match=r"tried 9 times") as caught:
        trainer(output, **settings).train(resume_from_checkpoint=True)
    assert isinstance(caught.value.__cause__, OSError)
    assert committed(output) == [2]
    resumed = trainer(output, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert committed(output) == [8]


def test_a_store_that_is_away_for_a_while_costs_saves_and_not_the_run(output: str) -> None:
    set_faults(refuse=1.0, only="optimizer.safetensors", at_most=20)
    ours = trainer(output, save_async=True, **SAVING)
    ours.train()
    assert ours.state.global_step == 8
    assert 8 in committed(output)


def test_a_store_that_never_answers_stops_the_run_before_its_first_step(output: str) -> None:
    set_faults(refuse=1.0)
    ours = trainer(output, **SAVING)
    with pytest.raises(ValueError, match="cannot be written: .*tried 9 times"):
        ours.train()
    assert ours.state.global_step == 0
