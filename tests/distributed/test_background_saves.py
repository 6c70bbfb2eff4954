"""Two processes write one checkpoint while both train on, and hear of its end after the same step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from hftrain import TrainerCallback
from hftrain.checkpoint import manager
from hftrain.checkpoint.foreign import open_any
from hftrain.errors import CheckpointError
from tests.checkpoint.slow import SlowDisk
from tests.distributed.launch import launch
from tests.trainer.tasks import Fit, trainer, weights

pytestmark = pytest.mark.slow


class Watching(TrainerCallback):
    """Lets the disk go after a step, and notes when it is told of a save; talks to the other process there."""

    def __init__(self, disk: SlowDisk, let_go_at: int) -> None:
        self.disk, self.let_go_at = disk, let_go_at
        self.heard: list[tuple[int, str]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.let_go_at:
            self.disk.open.set()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        dist.barrier()
        folder = kwargs["checkpoint"]
        assert open_any(folder, verify="full").manifest is not None
        self.heard.append((state.global_step, Path(folder).name))


def train(folder: str, is_async: bool | None, held: str, refused: str) -> dict[str, Any]:
    rank = int(os.environ["RANK"])
    disk = SlowDisk(held=held, refused=refused, num_refusals=1000)
    manager.storage_for = lambda path: disk  # type: ignore[assignment]
    watching = Watching(disk, let_go_at=27 if rank == 1 else 1)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 20, "max_steps": 40}
    ours = trainer(folder, Fit, callbacks=[watching], save_async=is_async, **settings)
    error = ""
    try:
        ours.train()
    except CheckpointError as caught:
        error = str(caught)
    return {"heard": watching.heard, "weights": weights(ours.model).tolist(), "error": error}


def test_both_hear_of_the_commit_after_the_same_step_and_train_the_same(tmp_path: Path) -> None:
    later = launch(train, str(tmp_path / "later"), True, "rng-1.json", "")
    now = launch(train, str(tmp_path / "now"), False, "", "")
    assert later[0]["heard"] == later[1]["heard"]
    assert [name for _, name in later[0]["heard"]] == ["checkpoint-20", "checkpoint-40"]
    assert later[0]["heard"][0][0] > 27
    assert [one["weights"] for one in later] == [one["weights"] for one in now]
    assert now[0]["heard"] == [[20, "checkpoint-20"], [40, "checkpoint-40"]]
    for step in (20, 40):
        files = open_any(f"{tmp_path}/later/checkpoint-{step}", verify="full").files
        assert {"rng-0.json", "rng-1.json", "model.safetensors"} <= set(files)


def test_an_error_of_one_process_is_an_error_of_both(tmp_path: Path) -> None:
    results = launch(train, str(tmp_path), True, "", "rng-1.json")
    assert all("Input/output error" in result["error"] for result in results)
    assert not (tmp_path / "checkpoint-40").exists()
