"""A checkpoint is filled by whoever has something to keep, and committed whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hftrain.checkpoint.catalog import Status, inspect_folder
from hftrain.checkpoint.contents import document_part
from hftrain.checkpoint.reader import open_checkpoint
from hftrain.checkpoint.saving import CheckpointSave
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError
from tests.checkpoint.kit import manager, parts, save, thread_ranks


def begin(folder: Path, step: int = 1, **settings: Any) -> CheckpointSave:
    save = manager(folder, **settings).begin(step, epoch=0.1, samples=4)
    assert save is not None
    return save


def filled(folder: Path, act: Callable[[CheckpointSave], object]) -> None:
    with begin(folder) as save:
        save.write(parts())
        act(save)


def raising(error: BaseException) -> Callable[[CheckpointSave], object]:
    def act(save: CheckpointSave) -> None:
        raise error

    return act


def status(folder: Path) -> Status:
    return inspect_folder(LocalStorage(), str(folder)).status


def test_what_other_code_writes_into_the_folder_belongs_to_the_checkpoint(tmp_path: Path) -> None:
    with begin(tmp_path) as save:
        save.write(parts())
        Path(save.folder, "vocab.txt").write_text("a b c")
        Path(save.folder, "adapter").mkdir()
        Path(save.folder, "adapter", "config.json").write_text("{}")
    reader = open_checkpoint(save.folder, verify="full")
    assert reader.file("vocab.txt") == b"a b c"
    assert reader.has_file("adapter/config.json")


def test_a_file_written_over_by_other_code_is_listed_as_it_is(tmp_path: Path) -> None:
    with begin(tmp_path) as save:
        save.write([*parts(), document_part("config", {"a": 1})])
        Path(save.folder, "config.json").write_text('{"b": 2}')
    assert open_checkpoint(save.folder, verify="full").document("config") == {"b": 2}


def test_a_link_in_the_folder_is_not_part_of_it(tmp_path: Path) -> None:
    with begin(tmp_path) as save:
        save.write(parts())
        Path(save.folder, "link").symlink_to("/etc/hostname")
    manifest = json.loads(Path(save.folder, "MANIFEST.json").read_text())
    assert "link" not in manifest["files"]


def test_a_file_that_other_code_removed_stops_the_commit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors at its commit"):
        filled(tmp_path, lambda save: Path(save.folder, "model.safetensors").unlink())
    assert not (tmp_path / "checkpoint-1").exists()


@pytest.mark.parametrize(("error", "is_left"), [(ValueError("mine"), False), (KeyboardInterrupt(), True)])
def test_an_error_of_other_code_is_passed_on_and_nothing_is_committed(
    tmp_path: Path, error: BaseException, is_left: bool
) -> None:
    with pytest.raises(type(error)) as caught:
        filled(tmp_path, raising(error))
    assert caught.value is error
    assert status(tmp_path / "checkpoint-1") is Status.TORN
    assert (tmp_path / "checkpoint-1").exists() is is_left


def test_an_error_on_one_rank_is_an_error_on_all(tmp_path: Path) -> None:
    def work(rank: Any) -> str:
        try:
            with begin(tmp_path, ranks=rank) as save:
                save.write(parts())
                if rank.process_index == 1:
                    raise ValueError("mine")
        except (ValueError, CheckpointError) as error:
            return f"{type(error).__name__}: {error}"
        return "committed"

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, thread_ranks(2))
    assert (first.split(":")[0], second) == ("CheckpointError", "ValueError: mine")
    assert "rank 1: ValueError: mine" in first


def test_two_parts_for_one_file_are_refused_over_several_writes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"would write model\.safetensors"):
        filled(tmp_path, lambda save: save.write(parts()))


def test_the_manager_knows_which_folder_is_being_written(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path)
    save = checkpoints.begin(3, epoch=0.1, samples=4)
    assert save is not None
    with save:
        assert checkpoints.open_save_in(str(tmp_path / "checkpoint-3")) is save
        assert checkpoints.open_save_in(str(tmp_path)) is None
        checkpoints.clean_up()
        save.write(parts())
    assert checkpoints.open_save_in(str(tmp_path / "checkpoint-3")) is None
    assert status(tmp_path / "checkpoint-3") is Status.COMMITTED


def test_nothing_is_taken_for_torn_before_this_process_committed_anything(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-9").mkdir()
    checkpoints = manager(tmp_path)
    checkpoints.clean_up()
    assert (tmp_path / "checkpoint-9").exists()
    checkpoints.save(1, parts(), epoch=0.1, samples=4)
    assert not (tmp_path / "checkpoint-9").exists()


class ReadNothing(LocalStorage):
    """A disk that must not be read."""

    def read(self, path: str) -> BinaryIO:
        raise AssertionError(f"{path} was read back")


def test_what_we_wrote_ourselves_is_not_read_back(tmp_path: Path) -> None:
    with begin(tmp_path, storage=ReadNothing()) as save:
        save.write(parts())
    assert status(tmp_path / "checkpoint-1") is Status.COMMITTED


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").write_text("mine")
    with pytest.raises(CheckpointError):
        save(manager(tmp_path), 1)
    assert (tmp_path / "checkpoint-1").read_text() == "mine"
