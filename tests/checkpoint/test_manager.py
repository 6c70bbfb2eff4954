"""Written, committed, cleaned up: in this order, on every storage, by every rank."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain.checkpoint.contents import rng_part
from hftrain.checkpoint.examine import protect
from hftrain.checkpoint.ranks import StorageRefusedError
from hftrain.checkpoint.reader import open_checkpoint, read_model
from hftrain.checkpoint.storage import LocalStorage, Written
from hftrain.errors import CheckpointError, TornCheckpointError
from tests.checkpoint.kit import manager, parts, save, thread_ranks


@dataclass
class Recorder(LocalStorage):
    """Notes what is changed, in order; refuses what ``fails`` names."""

    root: str
    verbs: list[str] = field(default_factory=list)
    fails: str = "nothing"

    def write(self, path: str, chunks: Any) -> Written:
        self._note("write", path)
        return super().write(path, chunks)

    def delete(self, path: str) -> None:
        self._note("delete", path)
        super().delete(path)

    def _note(self, verb: str, path: str) -> None:
        self.verbs.append(f"{verb} {path.removeprefix(self.root + '/')}")
        if self.verbs[-1] == self.fails:
            raise OSError(28, "No space left on device")


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_the_manifest_is_amended_where_a_listed_file_was_changed_or_removed(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path)
    folder = Path(save(checkpoints, 1))
    (folder / "trainer_state.json").write_text('{"global_step": 1, "more": 2}')
    (folder / "notes.txt").write_text("mine")
    checkpoints.amend()
    reader = open_checkpoint(str(folder), verify="full")
    assert reader.fields("trainer_state") == {"global_step": 1, "more": 2}
    assert reader.has_file("notes.txt")
    (folder / "model.safetensors").unlink()
    checkpoints.amend()
    assert not open_checkpoint(str(folder), verify="full").has("model")


def test_a_manifest_that_is_right_is_not_written_again(tmp_path: Path) -> None:
    storage = Recorder(root=str(tmp_path))
    checkpoints = manager(tmp_path, storage=storage)
    folder = Path(save(checkpoints, 1))
    (folder / "notes.txt").write_text("mine")
    storage.verbs.clear()
    checkpoints.amend()
    assert storage.verbs == []


def test_the_mark_comes_first_the_manifest_last_and_deletion_after_it(tmp_path: Path) -> None:
    storage = Recorder(root=str(tmp_path))
    checkpoints = manager(tmp_path, storage=storage, save_total_limit=1)
    save(checkpoints, 1)
    storage.verbs.clear()
    save(checkpoints, 2)
    assert storage.verbs == [
        "write checkpoint-2/.incomplete",
        "write checkpoint-2/model.safetensors",
        "write checkpoint-2/trainer_state.json",
        "write checkpoint-2/MANIFEST.json",
        "delete checkpoint-2/.incomplete",
        "write checkpoint-1/.incomplete",
        "delete checkpoint-1/MANIFEST.json",
        "delete checkpoint-1/model.safetensors",
        "delete checkpoint-1/trainer_state.json",
        "delete checkpoint-1",
    ]


def test_writing_over_a_committed_folder_removes_its_manifest_first_and_old_files_too(tmp_path: Path) -> None:
    storage = Recorder(root=str(tmp_path))
    checkpoints = manager(tmp_path, storage=storage)
    path = Path(save(checkpoints, 1))
    (path / "stale.json").touch()
    storage.verbs.clear()
    save(manager(tmp_path, storage=storage), 1)  # the step is trained again, by another process
    assert storage.verbs[:2] == ["write checkpoint-1/.incomplete", "delete checkpoint-1/MANIFEST.json"]
    assert names(path) == ["MANIFEST.json", "model.safetensors", "trainer_state.json"]


def test_the_manifest_lists_every_file_and_describes_the_run(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 3))
    document = json.loads((path / "MANIFEST.json").read_text())
    assert set(document["files"]) == {"model.safetensors", "trainer_state.json"}
    assert document["files"]["model.safetensors"]["bytes"] == (path / "model.safetensors").stat().st_size
    assert (document["run_id"], document["step"], document["epoch"], document["samples"]) == ("run", 3, 0.3, 12)
    assert set(document["versions"]) == {"hftrain", "torch", "python"}


def test_another_filesystem_holds_checkpoints_as_well() -> None:
    base = f"memory://{uuid.uuid4().hex}/out"
    checkpoints = manager(base, save_total_limit=1)
    for step in (1, 2):
        save(checkpoints, step)
    assert [one.path for one in checkpoints.committed()] == [f"{base}/checkpoint-2"]
    assert checkpoints.resolve(True) == f"{base}/checkpoint-2"
    assert checkpoints.resolve("checkpoint-2") is not None
    assert checkpoints.open(f"{base}/checkpoint-2").model()["weight"].item() == 2


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=2)
    for step in (1, 2, 3, 4):
        save(checkpoints, step, best="/moved/since/checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]


def test_retention_sees_only_this_runs_checkpoints(tmp_path: Path) -> None:
    save(manager(tmp_path, run_id="earlier"), 1)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2/trainer_state.json").write_text("{}")
    checkpoints = manager(tmp_path, save_total_limit=1)
    for step in (3, 4):
        save(checkpoints, step)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-4"]


def test_a_run_that_went_back_keeps_its_new_checkpoint_not_the_one_of_more_steps(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1)
    save(checkpoints, 10)
    save(checkpoints, 6)
    assert names(tmp_path) == ["checkpoint-6"]
    save(manager(tmp_path, run_id="another"), 20)
    assert [one.step for one in checkpoints.committed()] == [6, 20]


def test_a_clock_set_back_does_not_change_the_order_of_commits(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    manifest = json.loads((path / "MANIFEST.json").read_text()) | {"created": "2999-01-01T00:00:00.000000Z"}
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    checkpoints = manager(tmp_path)
    save(checkpoints, 2)
    assert [one.step for one in checkpoints.committed()] == [1, 2]


def test_torn_folders_go_after_the_next_commit_and_later_formats_stay(tmp_path: Path) -> None:
    for name in (".incomplete", "model.safetensors"):
        (tmp_path / "checkpoint-1").mkdir(exist_ok=True)
        (tmp_path / "checkpoint-1" / name).touch()
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-9/MANIFEST.json").write_text('{"format": 2}')
    checkpoints = manager(tmp_path)
    checkpoints.retain()
    assert (tmp_path / "checkpoint-1").exists()
    save(checkpoints, 2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-9"]


def test_the_loaded_checkpoint_stays_until_the_next_commit(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(manager(tmp_path), step)
    checkpoints = manager(tmp_path, save_total_limit=1)
    checkpoints.resolve("checkpoint-1")
    checkpoints.retain(best="checkpoint-3")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]
    save(checkpoints, 4)
    assert names(tmp_path) == ["checkpoint-4"]


def test_the_loaded_checkpoint_is_not_written_over_at_its_own_step(tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    storage = Recorder(root=str(tmp_path))
    assert save(manager(tmp_path, storage=storage), 1, loaded=path) == path
    assert storage.verbs == []
    save(manager(tmp_path, storage=storage), 1, loaded=path, samples=99)
    assert storage.verbs


def test_at_the_end_with_a_limit_of_one_only_the_best_stays(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1)
    for step in (1, 2, 3):
        path = save(checkpoints, step, best=f"{tmp_path}/checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]
    checkpoints.retain(best=None)
    assert names(tmp_path) == ["checkpoint-3"]
    checkpoints.retain(best=path)
    assert names(tmp_path) == ["checkpoint-3"]


def test_a_failed_save_is_an_error_with_its_cause_and_harms_nothing_older(tmp_path: Path) -> None:
    save(manager(tmp_path), 1)
    storage = Recorder(root=str(tmp_path), fails="write checkpoint-2/model.safetensors")
    with pytest.raises(CheckpointError, match=r"rank 0: OSError.*No space left.*Older checkpoints") as caught:
        save(manager(tmp_path, storage=storage), 2)
    assert isinstance(caught.value.__cause__, OSError)
    assert manager(tmp_path).resolve(True) == f"{tmp_path}/checkpoint-1"


@pytest.mark.parametrize("verb", ["write checkpoint-1/.incomplete", "delete checkpoint-1"])
def test_an_old_checkpoint_that_cannot_be_deleted_is_a_warning(
    verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Recorder(root=str(tmp_path), fails=verb)
    checkpoints = manager(tmp_path, storage=storage, save_total_limit=1)
    storage.fails = "nothing"
    save(checkpoints, 1)
    storage.fails = verb
    save(checkpoints, 2)
    assert "checkpoint-1 could not be deleted" in caplog.text
    storage.fails = "nothing"
    save(checkpoints, 3)
    assert names(tmp_path) == ["checkpoint-3"]


def test_a_folder_under_another_name_is_committed_and_left_alone(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1)
    path = save(checkpoints, 1, folder_name="last")
    save(checkpoints, 2)
    assert path == f"{tmp_path}/last"
    assert names(tmp_path) == ["checkpoint-2", "last"]
    assert read_model(path)["weight"].item() == 1


def on_ranks(world_size: int, task: Callable[[Any], Any]) -> list[Any]:
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(task, rank) for rank in thread_ranks(world_size)]
    return [future.exception() or future.result() for future in futures]


def test_every_rank_writes_its_own_and_rank_zero_commits_all(tmp_path: Path) -> None:
    def task(rank: Any) -> str | None:
        checkpoints = manager(tmp_path, ranks=rank)
        random = rng_part({"cpu": torch.tensor(rank.process_index)})
        checkpoints.save(1, [*parts(1.0), random], epoch=0, samples=4)
        return checkpoints.resolve(True)

    assert on_ranks(3, task) == [f"{tmp_path}/checkpoint-1"] * 3
    reader = manager(tmp_path).open(tmp_path / "checkpoint-1")
    assert [int(reader.tensors("rng", rank=rank)["cpu"]) for rank in range(3)] == [0, 1, 2]
    assert reader.manifest is not None
    assert reader.manifest.world_size == 3


def test_an_error_on_one_rank_is_an_error_on_all_and_nothing_is_committed(tmp_path: Path) -> None:
    def task(rank: Any) -> None:
        bad = Recorder(root=str(tmp_path), fails=f"write checkpoint-1/rng-{rank.process_index}.safetensors")
        storage = bad if rank.process_index == 1 else None
        random = rng_part({"cpu": torch.zeros(1)})
        manager(tmp_path, ranks=rank, storage=storage).save(1, [*parts(), random], epoch=0, samples=4)

    errors = on_ranks(2, task)
    assert [type(error) for error in errors] == [StorageRefusedError] * 2
    assert all("rank 1: OSError" in str(error) for error in errors)
    assert not (tmp_path / "checkpoint-1").exists()
    assert manager(tmp_path).committed() == []


def test_an_error_of_rank_zero_alone_reaches_the_others(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/MANIFEST.json").write_text('{"format": 2}')
    errors = on_ranks(2, lambda rank: manager(tmp_path, ranks=rank).resolve("checkpoint-1"))
    assert [type(error) for error in errors] == [TornCheckpointError] * 2
    assert str(errors[0]) == str(errors[1])


def test_a_resolved_checkpoint_is_read_for_its_sums_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(manager(tmp_path), 1)
    levels: list[str] = []
    for module in ("resume", "reader"):
        monkeypatch.setattr(f"hftrain.checkpoint.{module}.check_sums", lambda *args: levels.append(args[-1]))
    checkpoints = manager(tmp_path, verify="full")
    path = checkpoints.resolve(True)
    assert path is not None
    checkpoints.open(path)
    assert levels == ["full", "sizes"]


def test_saving_says_nothing_when_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    save(manager(tmp_path), 1)
    assert caplog.text == ""


def test_a_checkpoint_that_is_protected_while_the_run_goes_on_is_not_deleted(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1)
    kept = save(checkpoints, 1)
    protect(kept)
    save(checkpoints, 2)
    save(checkpoints, 3)
    assert [known.step for known in checkpoints.committed()] == [1, 3]
    protect(kept, is_protected=False)
    save(checkpoints, 4)
    assert [known.step for known in checkpoints.committed()] == [4]


def test_a_step_counts_as_committed_when_its_own_folder_is(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path)
    path = save(checkpoints, 2)
    assert (checkpoints.has_committed(2), checkpoints.has_committed(3)) == (True, False)
    Path(path, "MANIFEST.json").unlink()
    assert not checkpoints.has_committed(2)
