"""Training goes on while a checkpoint is written, where nothing watches the save; and ends with it committed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import Trainer, TrainerCallback
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.space import num_bytes
from hftrain.checkpoint.staging import HostBuffers
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError, TrainingInterrupted
from hftrain.trainer import background
from tests.checkpoint.slow import SlowDisk
from tests.trainer.pretrained import StopAt
from tests.trainer.tasks import Fit, Points, arguments, trainer, weights

WRITER = "hftrain-checkpoint"
WEIGHTS = "model.safetensors"


def run(folder: Path, kind: type[Trainer] = Trainer, callbacks: Any = None, resume: Any = None, **changes: Any) -> Any:
    settings = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1, **changes}
    torch.manual_seed(0)
    ours = kind(model=Fit(), args=arguments(folder, **settings), train_dataset=Points(), callbacks=callbacks)
    ours.train(resume_from_checkpoint=resume)
    return ours


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    """The disk that the checkpoints of this test's runs are written to."""
    slow = SlowDisk()
    monkeypatch.setattr("hftrain.checkpoint.manager.storage_for", lambda path: slow)
    return slow


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act()


class Watching(TrainerCallback):
    """Notes the steps at which it is told of a save, the folder, and whether that is committed."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str | None, bool]] = []
        self.events: list[str] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = kwargs.get("checkpoint") or f"{args.output_dir}/checkpoint-{state.global_step}"
        is_there = Path(folder, "MANIFEST.json").exists() and not Path(folder, ".incomplete").exists()
        self.heard.append((state.global_step, Path(folder).name, is_there))
        self.events.append("save")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append("end")


def hold(disk: SlowDisk, until_step: int) -> At:
    """Hold the weights up until a step is done; the write has ended when this returns."""
    disk.held = WEIGHTS

    def let_go() -> None:
        disk.open.set()
        for thread in threading.enumerate():
            if thread.name == WRITER:
                thread.join()

    return At(until_step, let_go)


# ---- where it is written ----------------------------------------------------------------------------


def test_by_default_a_save_that_nothing_watches_is_written_by_a_thread(tmp_path: Path, disk: SlowDisk) -> None:
    run(tmp_path)
    assert disk.threads >= {WRITER}
    for step in (4, 8):
        assert open_any(f"{tmp_path}/checkpoint-{step}", verify="full").step == step


def test_save_async_false_writes_before_training_goes_on(
    tmp_path: Path, disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, save_async=False, callbacks=[Watching()])
    assert disk.threads == {"MainThread"}
    assert caplog.text == ""


class Overriding(Trainer):
    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        super()._save_checkpoint(model, trial)


class SavingModels(Trainer):
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)


class SavingFiles(Trainer):
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)


@pytest.mark.parametrize(
    ("kind", "callbacks", "reason"),
    [
        (Trainer, [Watching], "Watching has an on_save"),
        (Overriding, [], "Overriding overrides _save_checkpoint"),
        (SavingModels, [], "SavingModels overrides save_model"),
        (SavingFiles, [], "SavingFiles overrides _save,"),
    ],
)
def test_what_watches_a_save_has_it_written_at_once_and_the_reason_is_said_once(
    tmp_path: Path,
    disk: SlowDisk,
    caplog: pytest.LogCaptureFixture,
    kind: type[Trainer],
    callbacks: list[Any],
    reason: str,
) -> None:
    run(tmp_path, kind, callbacks=[make() for make in callbacks])
    assert disk.threads == {"MainThread"}
    assert caplog.text.count("written before training goes on") == 1
    assert reason in caplog.text


@pytest.mark.parametrize(("free", "reason"), [(10, "free memory (10 bytes)"), (None, "how much memory is free")])
def test_without_memory_for_the_copy_it_is_written_at_once(
    tmp_path: Path,
    disk: SlowDisk,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    free: int | None,
    reason: str,
) -> None:
    monkeypatch.setattr(background, "free_host_bytes", lambda: free)
    run(tmp_path)
    assert disk.threads == {"MainThread"}
    assert reason in caplog.text


def test_twice_the_copy_is_the_measure_and_buffers_that_are_held_count(
    tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = 3 * sum(parameter.numel() for parameter in Fit().parameters())  # AdamW has two averages
    num_bytes = 4 * (floats + len(list(Fit().parameters())))  # and a count of steps
    free = iter([2 * num_bytes + 1, 2 * num_bytes + 1, num_bytes + 1])  # before memory is reserved, and twice to save
    monkeypatch.setattr(background, "free_host_bytes", lambda: next(free))
    run(tmp_path)
    assert disk.threads >= {WRITER}
    assert next(free, None) is None


def test_our_own_listeners_do_not_stop_it(tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Watching()
    monkeypatch.setattr(Watching.on_save, "__module__", "hftrain_integrations.some_tracker")
    run(tmp_path, callbacks=[heard])
    assert disk.threads >= {WRITER}
    assert [(folder, is_there) for _, folder, is_there in heard.heard] == [
        ("checkpoint-4", True),
        ("checkpoint-8", True),
    ]


def test_an_override_calling_for_a_save_itself_finds_it_there(tmp_path: Path, disk: SlowDisk) -> None:
    ours: list[Any] = []

    def save_now() -> None:
        ours[0]._save_checkpoint(ours[0].model)
        assert open_any(f"{tmp_path}/checkpoint-3", verify="full").step == 3

    class Kept(Trainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            ours.append(self)

    run(tmp_path, Kept, callbacks=[At(3, save_now)])


# ---- what is written --------------------------------------------------------------------------------


def test_training_is_the_same_and_so_is_every_file(tmp_path: Path) -> None:
    runs = {is_async: run(tmp_path / str(is_async), save_async=is_async, save_steps=3) for is_async in (True, False)}
    assert torch.equal(weights(runs[True].model), weights(runs[False].model))
    for step in (3, 6, 8):
        one, other = (tmp_path / str(is_async) / f"checkpoint-{step}" for is_async in (True, False))
        names = sorted(path.name for path in one.iterdir())
        assert names == sorted(path.name for path in other.iterdir())
        for name in set(names) - {"MANIFEST.json", "run.json", "training_args.json"}:
            mine, theirs = ((folder / name).read_bytes() for folder in (one, other))
            assert mine == theirs, name


def test_a_run_goes_on_from_it_bit_for_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", callbacks=[StopAt(4)])
    assert torch.equal(weights(run(tmp_path / "cut", resume=True).model), weights(whole.model))


def test_an_object_store_is_written_to_in_the_background_too() -> None:
    folder = "memory://runs/background"
    trainer(folder, save_strategy="steps", save_steps=4, save_async=True).train()
    assert open_any(f"{folder}/checkpoint-16", verify="full").step == 16


# ---- when it is heard of ----------------------------------------------------------------------------


def test_steps_go_on_while_it_is_written_and_on_save_comes_after_the_step_that_follows_its_commit(
    tmp_path: Path, disk: SlowDisk
) -> None:
    heard = Watching()
    run(tmp_path, callbacks=[hold(disk, until_step=6), heard], save_async=True)
    assert heard.heard == [(6, "checkpoint-4", True), (8, "checkpoint-8", True)]
    assert heard.events == ["save", "save", "end"]


def test_a_save_that_is_asked_for_while_another_is_heard_of_is_not_lost(tmp_path: Path, disk: SlowDisk) -> None:
    heard = Watching()
    run(tmp_path, callbacks=[hold(disk, until_step=6), heard], save_async=True, save_steps=3)
    assert heard.heard[0] == (6, "checkpoint-3", True)
    assert [folder for _, folder, _ in heard.heard] == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]


def test_the_next_save_waits_for_it(tmp_path: Path, disk: SlowDisk) -> None:
    disk.held = WEIGHTS
    heard = Watching()
    release = At(2, lambda: threading.Timer(0.1, disk.open.set).start())
    run(tmp_path, callbacks=[release, heard], save_async=True, save_steps=1)
    assert [(folder, is_there) for _, folder, is_there in heard.heard] == [
        (f"checkpoint-{step}", True) for step in range(1, 9)
    ]
    assert heard.heard[0][0] == 2


def test_an_override_of_rotation_is_called_by_the_main_thread_after_the_commit(tmp_path: Path, disk: SlowDisk) -> None:
    calls: list[tuple[int, str]] = []

    class Keeping(Trainer):
        def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: str | None = None) -> None:
            calls.append((self.state.global_step, threading.current_thread().name))

    run(tmp_path, Keeping, callbacks=[hold(disk, until_step=6)], save_total_limit=1, save_steps=4)
    assert calls == [(6, "MainThread"), (8, "MainThread")]


# ---- when it fails ----------------------------------------------------------------------------------


def test_a_disk_that_refuses_once_is_asked_once_more(
    tmp_path: Path, disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.refused, disk.num_refusals = WEIGHTS, 1
    run(tmp_path)
    assert "It is tried once more" in caplog.text
    assert (tmp_path / "checkpoint-4/MANIFEST.json").exists()


def test_the_last_save_that_cannot_be_written_is_an_error_with_its_cause(tmp_path: Path, disk: SlowDisk) -> None:
    disk.refused, disk.num_refusals = WEIGHTS, 1000
    with pytest.raises(CheckpointError, match="Input/output error") as caught:
        run(tmp_path, save_steps=8)
    assert isinstance(caught.value.__cause__, OSError)
    assert not (tmp_path / "checkpoint-8").exists()


def test_one_before_it_is_a_warning_with_its_reason_and_the_next_save_is_made(
    tmp_path: Path, disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.refused, disk.num_refusals = WEIGHTS, 2
    heard = Watching()
    run(tmp_path, callbacks=[heard], save_async=True)
    assert "checkpoint-4 could not be written (OSError: [Errno 5] Input/output error)" in caplog.text
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    assert heard.heard == [(8, "checkpoint-8", True)]


def test_an_error_that_no_disk_is_to_blame_for_ends_the_run_with_its_cause(tmp_path: Path, disk: SlowDisk) -> None:
    disk.write = lambda path, chunks: 1 / 0 if path.endswith(WEIGHTS) else LocalStorage.write(disk, path, chunks)  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(CheckpointError, match="checkpoint-4 could not be written") as caught:
        run(tmp_path)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_leaves_it_committed_or_absent(tmp_path: Path, disk: SlowDisk, error: BaseException) -> None:
    disk.held = WEIGHTS

    def interrupt() -> None:
        assert disk.begun.wait(30)
        threading.Timer(0.1, disk.open.set).start()
        raise error

    with pytest.raises(type(error)):
        run(tmp_path, callbacks=[At(5, interrupt)])
    assert not any(thread.name == WRITER for thread in threading.enumerate())
    assert trainer(tmp_path)._new_checkpoints().committed() == []


@pytest.mark.parametrize("error", [ValueError("mine"), TrainingInterrupted(143)])
def test_an_error_or_an_early_stop_waits_until_it_is_committed(
    tmp_path: Path, disk: SlowDisk, error: BaseException
) -> None:
    disk.held = WEIGHTS

    class Failing(Fit):
        def training_step(self, batch: Any) -> Any:
            if any(thread.name == WRITER for thread in threading.enumerate()):
                assert disk.begun.wait(30)
                threading.Timer(0.1, disk.open.set).start()
                raise error
            return super().training_step(batch)

    with pytest.raises(type(error)):
        trainer(tmp_path, Failing(), save_strategy="steps", save_steps=1).train()
    committed = trainer(tmp_path)._new_checkpoints().committed()
    assert committed
    assert json.loads(Path(committed[-1].path, "MANIFEST.json").read_text())["step"] == committed[-1].step


@pytest.mark.parametrize(
    ("changes", "is_reserved"),
    [
        ({}, True),
        ({"save_async": True}, True),
        ({"save_strategy": "no", "save_minutes": 100.0}, True),
        ({"save_async": False}, False),
        ({"save_strategy": "no"}, False),
    ],
)
def test_memory_for_copies_is_taken_after_the_first_step_of_a_run_that_will_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], is_reserved: bool
) -> None:
    reserved: list[int] = []
    monkeypatch.setattr(HostBuffers, "reserve", lambda self, tensors: reserved.append(num_bytes(tensors)))
    ours = run(tmp_path, **{"save_steps": 1000, "max_steps": 3, **changes})
    assert [taken // num_bytes(ours.model.parameters()) for taken in reserved] == (
        [3] if is_reserved else []
    )  # AdamW: two beside each
