"""Nodes that each have an output folder of their own: committed on all of them, or on none that counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain.checkpoint.contents import rng_part
from hftrain.checkpoint.manager import CheckpointManager
from hftrain.checkpoint.ranks import StorageRefusedError
from hftrain.checkpoint.reader import open_checkpoint
from hftrain.errors import TornCheckpointError
from tests.checkpoint.kit import manager, parts, thread_ranks
from tests.checkpoint.slow import SlowDisk

Task = Callable[[CheckpointManager], Any]


def on_two_nodes(folder: Path, task: Task, disks: dict[int, SlowDisk] | None = None, **settings: Any) -> list[Any]:
    """Run it in four processes, two on each node; return what each gives back, or its error."""

    def run(rank: Any) -> Any:
        storage = (disks or {}).get(rank.process_index)
        place = folder / f"node-{rank.process_index // 2}" / "out"
        return task(manager(place, ranks=rank, node_size=2, storage=storage, **settings))

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(run, rank) for rank in thread_ranks(4)]
    return [future.exception() or future.result() for future in futures]


def save(checkpoints: CheckpointManager, *steps: int) -> None:
    rank = checkpoints._ranks.process_index
    for step in steps:
        random = rng_part({"cpu": torch.tensor(rank)})
        checkpoints.save(step, [*parts(step), random], epoch=0.1, samples=step * 4)


def names(folder: Path) -> list[list[str]]:
    return [sorted(path.name for path in (folder / f"node-{node}" / "out").iterdir()) for node in (0, 1)]


def test_each_node_has_what_its_own_processes_need(tmp_path: Path) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1))
    for node in (0, 1):
        reader = open_checkpoint(str(tmp_path / f"node-{node}/out/checkpoint-1"), verify="full")
        assert reader.has("model")
        assert [rank for rank in range(4) if reader.has("rng", rank=rank)] == [2 * node, 2 * node + 1]
        assert reader.manifest is not None
        assert reader.manifest.world_size == 4


def test_every_process_resumes_from_its_own_nodes_folder(tmp_path: Path) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1, 2))
    found = on_two_nodes(tmp_path, lambda checkpoints: checkpoints.resolve(True))
    assert found == [f"{tmp_path}/node-{node}/out/checkpoint-2" for node in (0, 0, 1, 1)]


@pytest.mark.parametrize("resume", [True, "auto"])
def test_one_that_a_killed_run_committed_on_one_node_only_is_passed_over(tmp_path: Path, resume: Any) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1, 2, 3))
    (tmp_path / "node-1/out/checkpoint-3/MANIFEST.json").unlink()
    (tmp_path / "node-1/out/checkpoint-3/.incomplete").touch()
    shutil.rmtree(tmp_path / "node-0/out/checkpoint-2")
    found = on_two_nodes(tmp_path, lambda checkpoints: checkpoints.resolve(resume))
    assert found == [f"{tmp_path}/node-{node}/out/checkpoint-1" for node in (0, 0, 1, 1)]


def test_one_that_a_node_finds_damaged_is_passed_over(tmp_path: Path) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1, 2))
    weights = tmp_path / "node-1/out/checkpoint-2/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    found = on_two_nodes(tmp_path, lambda checkpoints: checkpoints.resolve(True), verify="full")
    assert [Path(path).name for path in found] == ["checkpoint-1"] * 4


def test_a_run_that_no_node_shares_a_checkpoint_of_starts_anew(tmp_path: Path) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1))
    shutil.rmtree(tmp_path / "node-1/out/checkpoint-1")
    assert on_two_nodes(tmp_path, lambda checkpoints: checkpoints.resolve("auto")) == [None] * 4


def test_a_path_that_not_every_node_has_is_an_error_on_all(tmp_path: Path) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1, 2))
    (tmp_path / "node-1/out/checkpoint-2/MANIFEST.json").write_text("{")
    found = on_two_nodes(tmp_path, lambda checkpoints: checkpoints.resolve("checkpoint-2"))
    assert [type(error) for error in found] == [TornCheckpointError] * 4
    assert "not committed on every node" in str(found[0])


@pytest.mark.parametrize(("rank", "file"), [(2, ".incomplete"), (2, "MANIFEST.json"), (3, "rng-3.json")])
def test_what_one_node_cannot_write_no_node_commits_and_none_deletes(tmp_path: Path, rank: int, file: str) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1))
    disks = {rank: SlowDisk(refused=file, num_refusals=1)}
    found = on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 2), disks, save_total_limit=1)
    assert [type(error) for error in found] == [StorageRefusedError] * 4
    found = on_two_nodes(tmp_path, lambda checkpoints: checkpoints.resolve(True))
    assert [Path(path).name for path in found] == ["checkpoint-1"] * 4


def test_every_node_cleans_up_for_itself(tmp_path: Path) -> None:
    on_two_nodes(tmp_path, lambda checkpoints: save(checkpoints, 1, 2, 3), save_total_limit=1)
    assert names(tmp_path) == [["checkpoint-3"], ["checkpoint-3"]]
