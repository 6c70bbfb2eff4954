"""What a run never deletes and never writes over, and what a save that fails leaves behind: nothing."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hftrain.checkpoint.examine import protect
from hftrain.checkpoint.manager import CheckpointManager
from hftrain.checkpoint.ranks import StorageRefusedError
from hftrain.checkpoint.reader import open_checkpoint
from hftrain.checkpoint.storage import Entry, LocalStorage, Written
from hftrain.errors import CheckpointError
from tests.checkpoint.full import FullDisk
from tests.checkpoint.kit import manager, parts, save


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def hold(folder: Path, *names: str, run_id: str = "run") -> Path:
    place = folder / "runs" / run_id
    place.mkdir(parents=True, exist_ok=True)
    (place / "held.json").write_text(json.dumps({"v": 1, "held": list(names)}))
    return place / "held.json"


def saved(checkpoints: CheckpointManager, *which: int, **settings: Any) -> None:
    for step in which:
        save(checkpoints, step, **settings)


def test_a_second_save_at_one_step_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path)
    saved(checkpoints, 1)
    first = (tmp_path / "checkpoint-1" / "MANIFEST.json").read_bytes()
    saved(checkpoints, 1)
    assert (tmp_path / "checkpoint-1" / "MANIFEST.json").read_bytes() == first


def test_a_step_that_is_trained_again_is_saved_again(tmp_path: Path) -> None:
    saved(manager(tmp_path), 1)
    first = (tmp_path / "checkpoint-1" / "MANIFEST.json").read_bytes()
    saved(manager(tmp_path), 1)
    assert (tmp_path / "checkpoint-1" / "MANIFEST.json").read_bytes() != first


# ---- deleting ---------------------------------------------------------------------------------------


def test_every_so_many_steps_one_stays(tmp_path: Path) -> None:
    saved(manager(tmp_path, save_total_limit=2, keep_every_steps=4), *range(1, 12))
    assert steps(tmp_path) == [4, 8, 10, 11]


def test_every_so_many_steps_one_stays_at_the_end_with_the_best_too(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1, keep_every_steps=3)
    saved(checkpoints, 1, 2, 3, 4, best="checkpoint-2")
    checkpoints.retain(best="checkpoint-2")
    assert steps(tmp_path) == [2, 3]


def test_what_is_being_uploaded_stays_until_it_is_let_go(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1)
    save(checkpoints, 1)
    held = hold(tmp_path, "checkpoint-1")
    saved(checkpoints, 2, 3)
    assert steps(tmp_path) == [1, 3]
    held.unlink()
    save(checkpoints, 4)
    assert steps(tmp_path) == [4]


def test_where_nothing_tells_what_is_being_uploaded_nothing_is_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = manager(tmp_path, save_total_limit=1)
    save(checkpoints, 1)
    hold(tmp_path).write_text("{")
    saved(checkpoints, 2, 3)
    assert steps(tmp_path) == [1, 2, 3]
    assert "was not cleaned up" in caplog.text
    assert "held.json" in caplog.text


def test_what_another_run_holds_is_not_ours_to_delete_anyway(tmp_path: Path) -> None:
    hold(tmp_path, "checkpoint-1", run_id="another")
    saved(manager(tmp_path, save_total_limit=1), 1, 2)
    assert steps(tmp_path) == [2]


def damage(path: str) -> None:
    Path(path, "model.safetensors").unlink()


def test_a_damaged_checkpoint_of_another_run_is_not_deleted_as_torn(tmp_path: Path) -> None:
    saved(manager(tmp_path, run_id="another"), 1, 2)
    (tmp_path / "checkpoint-2" / "MANIFEST.json").write_text("{")
    saved(manager(tmp_path), 3)
    damage(str(tmp_path / "checkpoint-1"))
    damage(str(tmp_path / "checkpoint-3"))
    save(manager(tmp_path, save_total_limit=1), 4)
    assert steps(tmp_path) == [1, 2, 4]


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_newest(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, save_total_limit=2)
    saved(checkpoints, 1, 2)
    damage(str(tmp_path / "checkpoint-2"))
    checkpoints = manager(tmp_path, save_total_limit=2)
    save(checkpoints, 3)
    assert steps(tmp_path) == [1, 3]


def test_the_best_the_protected_and_the_held_stay_damaged_too(tmp_path: Path) -> None:
    saved(manager(tmp_path), 1, 2, 3, 4, 5)
    protect(str(tmp_path / "checkpoint-5"))
    hold(tmp_path, "checkpoint-2")
    checkpoints = manager(tmp_path)
    for step in (1, 2, 3, 4, 5):
        damage(str(tmp_path / f"checkpoint-{step}"))
    save(checkpoints, 6, best=f"{tmp_path}/checkpoint-1")
    assert steps(tmp_path) == [1, 2, 5, 6]


class Unlisted(LocalStorage):
    """A store that lists nothing while ``is_down``."""

    is_down = False

    def list(self, path: str) -> tuple[Entry, ...]:
        if self.is_down:
            raise OSError(errno.EIO, "Input/output error")
        return super().list(path)


def test_a_store_that_cannot_be_listed_is_cleaned_up_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Unlisted()
    checkpoints = manager(tmp_path, save_total_limit=1, storage=storage)
    saved(checkpoints, 1)
    storage.is_down = True
    checkpoints.clean_up()
    assert "was not cleaned up (OSError" not in caplog.text
    assert "Input/output error" in caplog.text
    storage.is_down = False
    saved(checkpoints, 2)
    assert steps(tmp_path) == [2]


# ---- writing over -----------------------------------------------------------------------------------


def content(path: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


@pytest.mark.parametrize("is_held", [True, False])
def test_one_of_this_very_place_that_must_not_be_touched_is_not_saved_again(
    tmp_path: Path, is_held: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(manager(tmp_path), 4)
    hold(tmp_path, "checkpoint-4") if is_held else protect(path)
    before = content(path)
    assert manager(tmp_path).begin(4, epoch=0.4, samples=16) is None
    assert content(path) == before
    assert "not saved once more" in caplog.text


@pytest.mark.parametrize(("run_id", "samples"), [("another", 16), ("run", 99)])
def test_one_of_another_run_or_place_that_is_protected_refuses_the_save(
    tmp_path: Path, run_id: str, samples: int
) -> None:
    path = save(manager(tmp_path), 4)
    protect(path)
    before = content(path)
    with pytest.raises(StorageRefusedError, match="checkpoint-4 is protected, so step 4 of this run cannot be saved"):
        save(manager(tmp_path, run_id=run_id), 4, samples=samples)
    assert content(path) == before
    protect(path, is_protected=False)
    save(manager(tmp_path, run_id=run_id), 4, samples=samples)
    assert content(path) != before


def test_one_that_is_protected_and_damaged_is_not_written_over(tmp_path: Path) -> None:
    protect(save(manager(tmp_path), 4))
    damage(str(tmp_path / "checkpoint-4"))
    with pytest.raises(StorageRefusedError, match="is protected"):
        save(manager(tmp_path), 4)


# ---- failing ----------------------------------------------------------------------------------------


def size_of_one(folder: Path) -> int:
    disk = FullDisk(str(folder / "measured"))
    save(manager(folder / "measured", storage=disk), 1)
    return disk.used


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_wherever_the_disk_is_full_the_older_stays_whole_and_what_was_written_is_freed(
    tmp_path: Path, share: float, code: int
) -> None:
    disk = FullDisk(str(tmp_path / "out"), code=code)
    checkpoints = manager(tmp_path / "out", storage=disk, save_total_limit=1)
    older = save(checkpoints, 1)
    used = disk.used
    disk.room = used + int(share * size_of_one(tmp_path))
    with pytest.raises(StorageRefusedError):
        save(checkpoints, 2)
    assert disk.used == used
    assert steps(tmp_path / "out") == [1]
    assert open_checkpoint(older, verify="full").step == 1
    disk.room = None
    save(checkpoints, 3)
    assert steps(tmp_path / "out") == [3]


def test_a_mark_that_cannot_be_written_leaves_a_committed_checkpoint_as_it_was(tmp_path: Path) -> None:
    disk = FullDisk(str(tmp_path))
    path = save(manager(tmp_path, storage=disk), 1)
    disk.room = disk.used
    with pytest.raises(StorageRefusedError):
        save(manager(tmp_path, storage=disk), 1)
    assert ".incomplete" not in content(path)
    assert open_checkpoint(path, verify="full").step == 1


class Rusty(LocalStorage):
    """Refuses as safetensors' own writer does: with an error that is no OSError."""

    def write(self, path: str, chunks: Iterable[Any]) -> Written:
        if path.endswith("model.safetensors"):
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        return super().write(path, chunks)


def test_what_a_library_wraps_is_the_storages_refusal_and_what_is_no_storages_is_not(tmp_path: Path) -> None:
    with pytest.raises(StorageRefusedError, match="os error 28"):
        save(manager(tmp_path, storage=Rusty()), 1)
    with pytest.raises(CheckpointError, match="Two parts") as caught:
        manager(tmp_path).save(1, [*parts(), *parts()], epoch=0.1, samples=4)
    assert not isinstance(caught.value, StorageRefusedError)
    assert steps(tmp_path) == []
