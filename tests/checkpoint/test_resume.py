"""Which checkpoint resume_from_checkpoint takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from hftrain.checkpoint.resume import get_last_checkpoint
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError, CheckpointNotFoundError, TornCheckpointError
from tests.checkpoint.kit import manager, save


def tear(path: Path) -> None:
    (path / "MANIFEST.json").rename(path / ".incomplete")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        save(manager(tmp_path / "out"), step)
    return tmp_path / "out"


@pytest.mark.parametrize("value", [None, False, ""])
def test_nothing_asked_is_a_fresh_start(value: bool | str | None, out: Path) -> None:
    assert manager(out).resolve(value) is None


@pytest.mark.parametrize("value", [True, "auto"])
def test_the_newest_committed_is_taken_past_torn_ones(value: bool | str, out: Path) -> None:
    tear(out / "checkpoint-3")
    assert manager(out).resolve(value) == f"{out}/checkpoint-2"


@pytest.mark.parametrize("value", [True, "auto"])
def test_one_whose_bytes_changed_is_passed_over_with_a_warning(
    value: bool | str, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray((out / "checkpoint-3/model.safetensors").read_bytes())
    (out / "checkpoint-3/model.safetensors").write_bytes(data[:-1] + b"\x77")
    assert manager(out).resolve(value) == f"{out}/checkpoint-2"
    assert "checkpoint-3 is passed over" in caplog.text
    assert manager(out, verify="sizes").resolve(value) == f"{out}/checkpoint-3"


class Unreadable(LocalStorage):
    """A disk with bad sectors under some folders."""

    bad: tuple[str, ...] = ()

    def read(self, path: str) -> BinaryIO:
        if path.endswith("model.safetensors") and any(name in path for name in self.bad):
            raise OSError(5, "Input/output error")
        return super().read(path)


@pytest.mark.parametrize("value", [True, "auto"])
def test_one_that_cannot_be_read_is_passed_over_but_never_for_a_fresh_start(
    value: bool | str, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Unreadable()
    disk.bad = ("checkpoint-3",)
    assert manager(out, storage=disk).resolve(value) == f"{out}/checkpoint-2"
    assert "checkpoint-3 is passed over" in caplog.text
    disk.bad = ("checkpoint-",)
    with pytest.raises(CheckpointError, match=r"checkpoint-3/model.safetensors cannot be read: .*Input/output error"):
        manager(out, storage=disk).resolve(value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        manager(out, storage=disk).resolve(f"{out}/checkpoint-2")


def test_a_path_is_that_one(out: Path) -> None:
    assert manager(out).resolve(f"{out}/checkpoint-1/") == f"{out}/checkpoint-1"
    assert manager(out).resolve(out / "checkpoint-1") == f"{out}/checkpoint-1"  # type: ignore[arg-type]


def test_a_relative_name_is_tried_as_given_then_under_output_dir(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out.parent)
    assert manager("out").resolve("checkpoint-1") == "out/checkpoint-1"
    assert manager("out").resolve("out/checkpoint-1") == "out/checkpoint-1"
    save(manager("."), 1)
    assert manager("out").resolve("checkpoint-1") == "checkpoint-1"


def test_a_torn_path_becomes_the_newest_committed_before_it_with_a_warning(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tear(out / "checkpoint-2")
    assert manager(out).resolve("checkpoint-2") == f"{out}/checkpoint-1"
    assert "taking" in caplog.text
    assert "checkpoint-1" in caplog.text


def test_a_torn_path_with_only_later_ones_beside_it_is_an_error(out: Path) -> None:
    tear(out / "checkpoint-1")
    with pytest.raises(TornCheckpointError, match="none before it"):
        manager(out).resolve("checkpoint-1")


def test_a_torn_path_outside_output_dir_is_an_error(out: Path, tmp_path: Path) -> None:
    tear(out / "checkpoint-3")
    with pytest.raises(TornCheckpointError, match="never committed"):
        manager(tmp_path / "other").resolve(f"{out}/checkpoint-3")


@pytest.mark.parametrize("value", [True, "auto", "checkpoint-2"])
def test_only_torn_ones_start_at_step_zero_with_a_warning(
    value: bool | str, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        tear(out / f"checkpoint-{step}")
    assert manager(out).resolve(value) is None
    assert "starting at step 0" in caplog.text


def test_an_empty_folder_left_by_a_kill_counts_as_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    assert manager(tmp_path).resolve(True) is None
    assert manager(tmp_path).resolve("checkpoint-1") is None
    assert caplog.text.count("starting at step 0") == 2


@pytest.mark.parametrize("exists", [True, False])
def test_none_at_all_is_an_error_for_true_and_a_fresh_start_for_auto(exists: bool, tmp_path: Path) -> None:
    if exists:
        (tmp_path / "out/runs").mkdir(parents=True)
    assert manager(tmp_path / "out").resolve("auto") is None
    with pytest.raises(CheckpointNotFoundError, match=r"No valid checkpoint found in output directory \(.*out\)"):
        manager(tmp_path / "out").resolve(True)


@pytest.mark.parametrize("name", ["checkpoint-9", "runs"])
def test_a_path_where_there_is_none_is_an_error(name: str, out: Path) -> None:
    (out / "runs").mkdir()
    with pytest.raises(ValueError, match="Can't find a valid checkpoint at"):
        manager(out).resolve(name)


@pytest.mark.parametrize("value", [True, "checkpoint-8"])
def test_the_references_checkpoint_is_used_with_one_line_that_it_cannot_be_verified(
    value: bool | str, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (out / "checkpoint-8").mkdir()
    (out / "checkpoint-8/trainer_state.json").write_text('{"global_step": 8}')
    (out / "checkpoint-8/pytorch_model.bin").touch()
    assert manager(out).resolve(value) == f"{out}/checkpoint-8"
    assert len(caplog.records) == 1
    assert "cannot be verified" in caplog.text


def test_a_references_checkpoint_of_fewer_steps_is_older_than_ours(out: Path) -> None:
    (out / "checkpoint-2/MANIFEST.json").unlink()
    assert manager(out).resolve(True) == f"{out}/checkpoint-3"


def test_only_checkpoints_of_a_later_format_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/MANIFEST.json").write_text('{"format": 2}')
    for value in (True, "auto", "checkpoint-1"):
        with pytest.raises(TornCheckpointError, match="Update hftrain"):
            manager(tmp_path).resolve(value)


def test_a_file_where_a_folder_is_named_is_not_found(out: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        manager(out).resolve(os.path.join(out, "checkpoint-1", "model.safetensors"))


def test_the_references_folder_without_weights_is_no_checkpoint(out: Path) -> None:
    (out / "checkpoint-8").mkdir()
    (out / "checkpoint-8/trainer_state.json").write_text('{"global_step": 8}')
    assert manager(out).resolve(True) == f"{out}/checkpoint-3"
    with pytest.raises(CheckpointNotFoundError, match="Can't find a valid checkpoint at checkpoint-8"):
        manager(out).resolve("checkpoint-8")


def test_adapters_in_a_folder_of_their_name_are_weights(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-8/other").mkdir(parents=True)
    (tmp_path / "checkpoint-8/trainer_state.json").write_text('{"global_step": 8}')
    (tmp_path / "checkpoint-8/other/adapter_model.safetensors").touch()
    assert manager(tmp_path).resolve(True) == f"{tmp_path}/checkpoint-8"


def test_the_last_checkpoint_is_the_newest_committed(out: Path) -> None:
    assert get_last_checkpoint(out) == f"{out}/checkpoint-3"
    tear(out / "checkpoint-3")
    assert get_last_checkpoint(str(out)) == f"{out}/checkpoint-2"


@pytest.mark.parametrize("name", ["nothing", "out/checkpoint-1"])
def test_a_folder_without_checkpoints_has_no_last_one(out: Path, name: str) -> None:
    assert get_last_checkpoint(out.parent / name) is None


def test_the_last_checkpoint_may_be_the_references(out: Path) -> None:
    (out / "checkpoint-8").mkdir()
    (out / "checkpoint-8/trainer_state.json").write_text('{"global_step": 8}')
    (out / "checkpoint-8/model.safetensors").touch()
    assert get_last_checkpoint(out) == f"{out}/checkpoint-8"


# ---- whole once, and damaged ------------------------------------------------------------------------


def test_a_checkpoint_that_lost_its_manifest_is_no_other_trainers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = manager(tmp_path)
    first, second = save(checkpoints, 1), save(checkpoints, 2)
    (Path(second) / "MANIFEST.json").unlink()
    (Path(second) / "run.json").write_text("{}")
    assert manager(tmp_path).resolve("auto") == first
    assert "checkpoint-2 has lost its MANIFEST.json" in caplog.text


@pytest.mark.parametrize("resume_from", [True, "auto"])
def test_a_damaged_newer_one_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, resume_from: bool | str
) -> None:
    checkpoints = manager(tmp_path)
    first, second = save(checkpoints, 1), save(checkpoints, 2)
    (Path(second) / "model.safetensors").write_bytes(b"half")
    assert manager(tmp_path).resolve(resume_from) == first
    assert "checkpoint-2 is passed over" in caplog.text
    assert "model.safetensors has 4 bytes" in caplog.text


def test_a_named_one_that_is_damaged_is_an_error_where_none_is_before_it(tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    (Path(path) / "model.safetensors").write_bytes(b"half")
    with pytest.raises(TornCheckpointError, match="none before it.*has 4 bytes.*Leave resume_from_checkpoint out"):
        manager(tmp_path).resolve(path)
