"""A save that one process's disk refuses is a warning for all of them, and the next one is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hftrain.checkpoint import manager
from hftrain.checkpoint.foreign import open_any
from tests.checkpoint.slow import SlowDisk
from tests.distributed.launch import launch
from tests.trainer.tasks import Fit, trainer, weights

pytestmark = pytest.mark.slow


def train(folder: str, is_async: bool, refusing: int, refused: str, num_refusals: int) -> dict[str, Any]:
    is_mine = int(os.environ["RANK"]) == refusing
    disk = SlowDisk(refused=refused if is_mine else "", num_refusals=num_refusals)
    manager.storage_for = lambda path: disk  # type: ignore[assignment]
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "save_total_limit": 1}
    ours = trainer(folder, Fit, save_async=is_async, **settings)
    ours.train()
    return {"step": ours.state.global_step, "weights": weights(ours.model).tolist(), "left": disk.num_refusals}


@pytest.mark.parametrize(
    ("is_async", "refusing", "refused"),
    [(False, 0, ".incomplete"), (False, 0, "MANIFEST.json"), (False, 1, "rng-1.json"), (True, 1, "rng-1.json")],
)
def test_both_go_on_and_save_the_next_time(tmp_path: Path, is_async: bool, refusing: int, refused: str) -> None:
    num_refusals = 2 if is_async else 1  # in the background it is tried once more
    results = launch(train, str(tmp_path), is_async, refusing, refused, num_refusals)
    assert [result["step"] for result in results] == [8, 8]
    assert results[0]["weights"] == results[1]["weights"]
    assert results[refusing]["left"] == 0
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    assert open_any(f"{tmp_path}/checkpoint-8", verify="full").step == 8
