"""Two processes behind one URL, over a store that fails: both write, one commits, both go on alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hftrain.checkpoint import patience
from hftrain.checkpoint.catalog import Status, scan
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.storage import storage_for
from tests.checkpoint import failing
from tests.distributed.launch import launch
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import trainer, weights

pytestmark = pytest.mark.slow


def train(output: str, stop: int, share: float, save_async: bool, resume: bool) -> list[float]:
    faults = failing.Faults(drop=share, truncate=share, refuse=share, lag_s=share / 10)
    failing.FailingFileSystem.faults = faults
    patience.WAITS_S = (0.001,) * 8
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "save_total_limit": 2}
    ours = trainer(output, callbacks=[StopAt(stop)], save_async=save_async, **settings)
    ours.train(resume_from_checkpoint=resume)
    assert ours.state.global_step == stop
    assert os.environ["RANK"] != "0" or bool(faults.num_faults) == bool(share)
    return weights(ours.model).tolist()


def test_two_processes_save_and_resume_over_a_failing_store(tmp_path: Path) -> None:
    whole = launch(train, str(tmp_path / "whole"), 6, 0.0, False, False)
    output = f"failing://{tmp_path}/run"
    launch(train, output, 4, 0.05, True, False)
    resumed = launch(train, output, 6, 0.05, False, True)
    assert resumed == whole
    found = [folder for folder in scan(storage_for(output), output) if folder.status is Status.COMMITTED]
    assert [open_any(folder.path, verify="full").step for folder in found] == [4, 6]
    assert {"rng-0.json", "rng-1.json"} <= set(found[-1].files)
