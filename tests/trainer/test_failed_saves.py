"""A save that fails costs that save and nothing else: not the run, not an older checkpoint, not the space."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hftrain import DataModule, Trainer, TrainerCallback
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.ranks import StorageRefusedError
from hftrain.errors import CheckpointError, ConfigurationError
from tests.checkpoint.full import FullDisk, small_disk
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import Fit, Points, arguments, trainer, weights
from tests.trainer.test_background import WRITER, At, Watching
from tests.trainer.test_save import Scripted, checkpoints

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "cosine"}
BOTH = pytest.mark.parametrize("save_async", [False, True])


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    """The disk that this test's checkpoints lie on."""
    found = FullDisk(str(tmp_path))
    monkeypatch.setattr("hftrain.checkpoint.manager.storage_for", lambda path: found)
    return found


def written() -> None:
    """Wait for what is being written."""
    for thread in threading.enumerate():
        if thread.name == WRITER:
            thread.join()


class Room(TrainerCallback):
    """Sets what the disk has left after some steps: step -> bytes, None for all that is asked for."""

    def __init__(self, disk: FullDisk, rooms: dict[int, int | None]) -> None:
        self.disk, self.rooms = disk, rooms

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.rooms:
            written()
            room = self.rooms[state.global_step]
            self.disk.room = None if room is None else self.disk.used + room


# ---- one of several ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("room", [0, 300, 2000])
def test_training_goes_on_the_older_stays_whole_and_the_next_save_is_made(
    tmp_path: Path, disk: FullDisk, save_async: bool, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    look = At(
        11, lambda: seen.append((checkpoints(tmp_path), open_any(f"{tmp_path}/checkpoint-4", verify="full").step))
    )
    callbacks = [Room(disk, {5: room, 11: None}), look]
    ours = trainer(tmp_path, callbacks=callbacks, save_total_limit=1, save_async=save_async, **SAVING)
    ours.train()
    assert disk.refused
    assert caplog.text.count("Training goes on, and the next save tries again") == 1
    assert "checkpoint-8 could not be written (" in caplog.text or "checkpoint-8: OSError: [Errno 28]" in caplog.text
    assert seen == [(["checkpoint-4"], 4)]
    assert checkpoints(tmp_path) == ["checkpoint-16"]
    whole = trainer(tmp_path / "whole", lr_scheduler_type="cosine")
    whole.train()
    assert torch.equal(weights(ours.model), weights(whole.model))


@BOTH
def test_nobody_is_told_of_a_save_that_failed(tmp_path: Path, disk: FullDisk, save_async: bool) -> None:
    heard = Watching()
    trainer(tmp_path, callbacks=[Room(disk, {5: 0, 9: None}), heard], save_async=save_async, **SAVING).train()
    assert [(folder, is_there) for _, folder, is_there in heard.heard] == [
        (f"checkpoint-{step}", True) for step in (4, 12, 16)
    ]


@BOTH
def test_a_resume_goes_on_from_the_one_before_bit_for_bit(tmp_path: Path, disk: FullDisk, save_async: bool) -> None:
    whole = trainer(tmp_path / "whole", lr_scheduler_type="cosine")
    whole.train()
    with pytest.raises(CheckpointError):
        trainer(tmp_path / "cut", callbacks=[Room(disk, {5: 0})], save_async=save_async, **SAVING).train()
    disk.room = None
    resumed = trainer(tmp_path / "cut", save_async=save_async, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))


class Improving(Scripted):
    losses = (4.0, 3.0, 2.0, 5.0)


@BOTH
def test_the_best_is_the_last_best_that_could_be_saved(tmp_path: Path, disk: FullDisk, save_async: bool) -> None:
    ours = trainer(
        tmp_path,
        Improving(),
        DataModule(train=Points(), eval=Points(8)),
        callbacks=[Room(disk, {9: 0, 13: None})],
        save_async=save_async,
        eval_strategy="steps",
        eval_steps=4,
        metric_for_best_model="loss",
        load_best_model_at_end=True,
        save_total_limit=1,
        **SAVING,
    )
    ours.train()
    assert checkpoints(tmp_path) == ["checkpoint-8"]
    assert ours.state.best_model_checkpoint == f"{tmp_path}/checkpoint-8"
    assert torch.equal(weights(ours.model), weights(Improving.from_checkpoint(f"{tmp_path}/checkpoint-8")))


def test_what_other_code_writes_on_a_full_disk_fails_the_save_as_well(tmp_path: Path) -> None:
    class Writing(Trainer):
        def _save_rng_state(self, output_dir: str) -> None:
            super()._save_rng_state(output_dir)
            if self.state.global_step == 4:
                save_file({"more": torch.zeros(1 << 20)}, f"{output_dir}/more.safetensors")
            if self.state.global_step == 8:
                torch.save({"more": torch.zeros(1 << 20)}, f"{output_dir}/more.bin")

    with small_disk(tmp_path / "disk", num_bytes=1 << 20) as disk:
        Writing(Fit(), arguments(disk, **SAVING), train_dataset=Points()).train()
        assert checkpoints(disk) == ["checkpoint-12", "checkpoint-16"]


def test_an_error_of_other_code_that_no_disk_is_to_blame_for_ends_the_run(tmp_path: Path) -> None:
    class Broken(Trainer):
        def _save_rng_state(self, output_dir: str) -> None:
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        Broken(Fit(), arguments(tmp_path, **SAVING), train_dataset=Points()).train()
    assert checkpoints(tmp_path) == []


# ---- the last one -----------------------------------------------------------------------------------


@BOTH
def test_the_last_one_is_an_error_that_says_why(tmp_path: Path, disk: FullDisk, save_async: bool) -> None:
    with pytest.raises(StorageRefusedError if not save_async else CheckpointError, match="No space left") as caught:
        trainer(tmp_path, callbacks=[Room(disk, {13: 0})], save_async=save_async, **SAVING).train()
    assert isinstance(caught.value.__cause__, OSError)
    assert checkpoints(tmp_path) == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    for step in (4, 8, 12):
        assert open_any(f"{tmp_path}/checkpoint-{step}", verify="full").step == step


@BOTH
def test_a_signal_that_cannot_be_answered_with_a_checkpoint_is_an_error(
    tmp_path: Path, disk: FullDisk, save_async: bool
) -> None:
    stop = At(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(CheckpointError, match="No space left"):
        trainer(tmp_path, callbacks=[Room(disk, {5: 0}), stop], save_async=save_async, **SAVING).train()
    assert checkpoints(tmp_path) == ["checkpoint-4"]


def test_a_signal_at_the_step_of_a_save_that_failed_saves_once_more(tmp_path: Path, disk: FullDisk) -> None:
    class Late(TrainerCallback):
        """The signal comes while the epoch ends, and space has come back."""

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 8:
                disk.room = None
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        trainer(tmp_path, callbacks=[Room(disk, {5: 0}), Late()], save_async=False, **SAVING).train()
    assert caught.value.code == 143
    assert checkpoints(tmp_path) == ["checkpoint-4", "checkpoint-8"]


# ---- what must not be touched -----------------------------------------------------------------------


def test_a_protected_checkpoint_of_another_run_costs_the_save_of_its_step_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, max_steps=8, **SAVING).train()
    kept = tmp_path / "checkpoint-8"
    (kept / ".protected").touch()
    before = (kept / "MANIFEST.json").read_bytes()
    trainer(tmp_path, save_total_limit=1, **SAVING).train()
    assert "checkpoint-8 is protected, so step 8 of this run cannot be saved there" in caplog.text
    assert (kept / "MANIFEST.json").read_bytes() == before
    assert checkpoints(tmp_path) == ["checkpoint-8", "checkpoint-16"]


# ---- a real disk ------------------------------------------------------------------------------------


@BOTH
def test_a_real_disk_that_fills_up_and_is_emptied_again(tmp_path: Path, save_async: bool) -> None:
    with small_disk(tmp_path / "disk", num_bytes=1 << 20) as disk:
        rest = disk / "rest"

        class Filling(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                written()
                if state.global_step == 5:
                    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
                    rest.write_bytes(bytes(free - 8192))
                if state.global_step == 11:
                    assert checkpoints(disk) == ["checkpoint-4"]
                    rest.unlink()

        trainer(disk, callbacks=[Filling()], save_async=save_async, **SAVING).train()
        assert checkpoints(disk) == ["checkpoint-4", "checkpoint-12", "checkpoint-16"]
        for step in (4, 12, 16):
            assert open_any(f"{disk}/checkpoint-{step}", verify="full").step == step


def test_a_run_that_fills_its_own_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", num_bytes=300_000) as disk:
        with pytest.raises((CheckpointError, ConfigurationError)):
            trainer(disk, save_async=False, **{**SAVING, "save_steps": 1}, num_train_epochs=8).train()
        found = checkpoints(disk)
        assert 1 <= len(found) < 64
        for name in found:
            assert open_any(f"{disk}/{name}", verify="full").step == int(name.split("-")[1])


@BOTH
def test_the_one_that_was_resumed_from_stays_until_a_later_one_is_committed(
    tmp_path: Path, disk: FullDisk, save_async: bool
) -> None:
    folder, seen = tmp_path / "run", []
    trainer(folder, callbacks=[StopAt(4)], **SAVING).train()

    def look() -> None:
        written()
        seen.append(checkpoints(folder))

    callbacks = [Room(disk, {5: 0, 11: None}), At(10, look), At(13, look)]
    resumed = trainer(folder, callbacks=callbacks, save_total_limit=1, save_async=save_async, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert seen == [["checkpoint-4"], ["checkpoint-12"]]
