"""What is told of checkpoints: every fault of one, which is the best, and which a user protects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from hftrain.checkpoint.catalog import inspect_folder
from hftrain.checkpoint.contents import document_part
from hftrain.checkpoint.examine import best_of, checkpoints_at, faults, protect, unlisted_files
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError, CheckpointNotFoundError
from tests.checkpoint.kit import manager, parts, save

DISK = LocalStorage()


def found_in(path: str | Path) -> list[tuple[str, str]]:
    return [(fault.file, fault.problem) for fault in faults(DISK, inspect_folder(DISK, str(path)))]


def change_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (change_last_byte, "changed after it was written"),
        (Path.unlink, "is missing"),
        (replace_by_link, "is a link"),
        (lambda path: os.truncate(path, 8), "has 8 bytes"),
    ],
    ids=["a byte", "a file", "a link", "an end"],
)
def test_each_kind_of_damage_is_named_with_its_file(
    damage: Callable[[Path], object], problem: str, tmp_path: Path
) -> None:
    path = Path(save(manager(tmp_path), 1))
    assert found_in(path) == []
    damage(path / "model.safetensors")
    ((file, text),) = found_in(path)
    assert file == "model.safetensors"
    assert text.startswith(problem)


def test_all_faults_are_found_and_not_the_first_alone(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    change_last_byte(path / "model.safetensors")
    change_last_byte(path / "trainer_state.json")
    assert [file for file, _ in found_in(path)] == ["model.safetensors", "trainer_state.json"]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ([".incomplete"], "begun and never committed"),
        (["trainer_state.json"], "no manifest"),
        (["MANIFEST.json"], "JSON"),
    ],
    ids=["begun", "the reference's", "an empty manifest"],
)
def test_a_folder_without_a_valid_manifest_has_one_fault_that_tells_why(
    files: list[str], problem: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    ((file, text),) = found_in(tmp_path)
    assert file == ""
    assert problem in text


def test_unlisted_files_are_those_that_nobody_reads(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    for name in ("notes.txt", ".incomplete", ".protected"):
        (path / name).touch()
    assert unlisted_files(inspect_folder(DISK, str(path))) == ["notes.txt"]


def test_a_path_is_a_folder_of_checkpoints_or_one_of_them(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path)
    path, _ = save(checkpoints, 1), save(checkpoints, 2)
    assert [one.step for one in checkpoints_at(f"{tmp_path}/", DISK)] == [1, 2]
    assert [one.path for one in checkpoints_at(path, DISK)] == [path]
    # What save_state leaves beside the checkpoints does not make the folder one of them.
    (tmp_path / "trainer_state.json").write_text("{}")
    assert [one.step for one in checkpoints_at(str(tmp_path), DISK)] == [1, 2]


class Vanishing(LocalStorage):
    """A run deletes a checkpoint between the listing and the reading."""

    def __init__(self, going: str) -> None:
        self.going = going

    def read(self, path: str) -> BinaryIO:
        if path.startswith(self.going):
            shutil.rmtree(self.going, ignore_errors=True)
        return super().read(path)


def test_a_checkpoint_that_a_run_deletes_meanwhile_is_no_error(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path)
    path, _ = save(checkpoints, 1), save(checkpoints, 2)
    assert [one.step for one in checkpoints_at(str(tmp_path), Vanishing(path))] == [2]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert checkpoints_at(str(tmp_path), DISK) == []
    with pytest.raises(CheckpointNotFoundError, match="no folder"):
        checkpoints_at(str(tmp_path / "nowhere"), DISK)


@pytest.mark.parametrize(
    ("state", "best"),
    [
        ({"best_model_checkpoint": "elsewhere/checkpoint-1"}, "checkpoint-1"),
        ({"best_model_checkpoint": None}, None),
        ({"best_model_checkpoint": 3}, None),
        ([], None),
    ],
    ids=str,
)
def test_the_newest_knows_the_best_by_its_name(state: object, best: str | None, tmp_path: Path) -> None:
    manager(tmp_path).save(2, [parts()[0], document_part("trainer_state", state)], epoch=0.0, samples=0)
    assert best_of(DISK, checkpoints_at(str(tmp_path), DISK)) == best


def test_a_state_that_cannot_be_read_is_said_and_the_rest_is_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(save(manager(tmp_path), 1))
    state = (path / "trainer_state.json").read_bytes()
    (path / "trainer_state.json").write_bytes(b"{" * len(state))
    assert best_of(DISK, checkpoints_at(str(tmp_path), DISK)) is None
    assert "best is not known" in caplog.text


def test_protecting_leaves_a_mark_that_listing_and_retention_read(tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    assert protect(path + "/") == path
    assert inspect_folder(DISK, path).is_protected
    protect(path, is_protected=False)
    assert not inspect_folder(DISK, path).is_protected


def test_protecting_what_is_no_committed_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint at"):
        protect(str(tmp_path))
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="hftrain did not write it"):
        protect(str(tmp_path))


def test_a_state_that_no_manifest_lists_names_no_best(tmp_path: Path) -> None:
    path = Path(manager(tmp_path).save(1, [parts()[0]], epoch=0.0, samples=0))
    (path / "trainer_state.json").write_text('{"best_model_checkpoint": "checkpoint-1"}')
    assert best_of(DISK, checkpoints_at(str(tmp_path), DISK)) is None
