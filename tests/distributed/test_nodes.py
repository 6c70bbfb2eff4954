"""`save_on_each_node`: two processes that are told to be two nodes, each with a disk of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain.checkpoint.foreign import open_any
from hftrain.errors import ConfigurationError
from tests.distributed.launch import launch
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import Fit, trainer, weights

pytestmark = pytest.mark.slow


def be_a_node(folder: str) -> Path:
    """Make this process the only one of its node, and its current folder that node's disk."""
    rank = os.environ["RANK"]
    os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", GROUP_RANK=rank, LOCAL_SIZE="1")
    place = Path(folder, f"disk-{rank}")
    place.mkdir(exist_ok=True)
    os.chdir(place)
    return place


def train(folder: str, stop_at: int | None, resume: bool) -> list[float]:
    place = be_a_node(folder)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 12, "save_total_limit": 2}
    callbacks = [] if stop_at is None else [StopAt(stop_at)]
    ours = trainer("out", Fit, callbacks=callbacks, save_on_each_node=True, **settings)
    assert ours.args.should_save
    ours.train(resume_from_checkpoint=resume)
    ours.save_model("final")
    assert (place / "final" / "model.safetensors").exists()
    return weights(ours.model).tolist()


def test_each_node_saves_all_it_needs_and_resumes_from_it_bit_for_bit(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = launch(train, str(tmp_path / "whole"), None, False)
    launch(train, str(tmp_path / "cut"), 8, False)
    for node in (0, 1):
        files = open_any(f"{tmp_path}/cut/disk-{node}/out/checkpoint-8", verify="full").files
        assert {"model.safetensors", "optimizer.safetensors", f"rng-{node}.json"} <= set(files)
        assert f"rng-{1 - node}.json" not in files
    # A kill between the two commits: the second node never had its checkpoint-8.
    (tmp_path / "cut/disk-1/out/checkpoint-8/MANIFEST.json").unlink()
    (tmp_path / "cut/disk-1/out/checkpoint-8/.incomplete").touch()
    resumed = launch(train, str(tmp_path / "cut"), None, True)
    assert torch.equal(torch.tensor(resumed), torch.tensor(whole))
    for node in (0, 1):
        found = sorted(path.name for path in (tmp_path / f"cut/disk-{node}/out").glob("checkpoint-*"))
        assert found == ["checkpoint-12", "checkpoint-8"]


def train_on_one_disk(folder: str) -> str:
    be_a_node(folder)
    try:
        trainer(f"{folder}/out", Fit, save_on_each_node=True, save_strategy="epoch").train()
    except ConfigurationError as error:
        return str(error)
    return "trained"


def test_nodes_that_see_one_folder_are_told_so(tmp_path: Path) -> None:
    found = launch(train_on_one_disk, str(tmp_path))
    assert all("save_on_each_node=True, and the nodes see the same output_dir" in text for text in found)
    assert list((tmp_path / "out").iterdir()) == []
