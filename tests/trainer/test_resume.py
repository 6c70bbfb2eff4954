from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import DataModule, TrainerCallback
from hftrain.core.position import Position
from hftrain.errors import CheckpointError, ConfigurationError
from tests.checkpoint.hostile import exchange
from tests.trainer.tasks import CountedFit, Fit, Points, trainer, weights


class StopAt(TrainerCallback):
    """Stand in for an interruption: training ends at a step, whatever was planned."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


def interrupted_and_resumed(folder: Path, stop: int, task: type[Fit] = Fit, **changes: Any) -> Any:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "cosine", **changes}
    trainer(folder, task, callbacks=[StopAt(stop)], **settings).train()
    resumed = trainer(folder, task, **settings)
    torch.manual_seed(999)  # nothing may depend on the random state that the new process happens to have
    resumed.train(resume_from_checkpoint=True)
    return resumed


@pytest.mark.parametrize("stop", [1, 5, 8, 11])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_resumed_run_is_bitwise_equal(tmp_path: Path, stop: int, accumulation: int) -> None:
    changes = {"gradient_accumulation_steps": accumulation, "num_train_epochs": 5}
    whole = trainer(tmp_path / "whole", save_strategy="no", lr_scheduler_type="cosine", **changes)
    whole.train()
    resumed = interrupted_and_resumed(tmp_path / "cut", stop, **changes)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.state.global_step == whole.state.global_step


def test_a_resumed_run_logs_the_rows_of_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", lr_scheduler_type="cosine")
    whole.train()
    resumed = interrupted_and_resumed(tmp_path / "cut", 6)
    rows = [[r for r in t.state.log_history if "loss" in r] for t in (whole, resumed)]
    assert rows[0] == rows[1]
    assert resumed.state.log_history[-1]["train_loss"] == pytest.approx(whole.state.log_history[-1]["train_loss"])


@pytest.mark.parametrize("task", [CountedFit])
@pytest.mark.parametrize("optim", ["sgd", "adafactor", "rmsprop", "adagrad", "adamw_torch_fused"])
def test_every_optimizer_resumes_bitwise(tmp_path: Path, optim: str, task: type[Fit]) -> None:
    whole = trainer(tmp_path / "whole", task, optim=optim, lr_scheduler_type="cosine")
    whole.train()
    resumed = interrupted_and_resumed(tmp_path / "cut", 5, task, optim=optim)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_resume_loads_no_batch_to_throw_away(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    trainer(tmp_path, callbacks=[StopAt(6)], **settings).train()
    data = Points()
    trainer(tmp_path, data=DataModule(train=data), **settings).train(resume_from_checkpoint=True)
    assert len(data.fetched) == 2 * 8


def test_a_resume_at_step_one_million_loads_only_what_comes_after(tmp_path: Path) -> None:
    class Jump(TrainerCallback):
        """Stand in for a million steps of one sample."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            state.global_step = kwargs["lr_scheduler"].last_epoch = 1_000_000
            first._runner.position = Position(epoch=0, batches=1_000_000, samples=1_000_000)  # type: ignore[union-attr]
            control.should_save = control.should_training_stop = True

    settings: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 1, "logging_steps": 10**7}
    first = trainer(tmp_path, data=DataModule(train=Points(1_000_003)), callbacks=[Jump()], **settings)
    first.train()
    data = Points(1_000_003)
    ours = trainer(tmp_path, data=DataModule(train=data), **settings)
    ours.train(resume_from_checkpoint=True)
    order = torch.randperm(1_000_003, generator=torch.Generator().manual_seed(42))
    assert data.fetched == order[1_000_000:].tolist()
    assert ours.state.global_step == 1_000_003


@pytest.mark.parametrize(("batch_size", "steps"), [(5, 3 + 8), (16, 3 + 3), (2, 3 + 20)])
def test_a_resume_with_another_batch_size_sees_every_sample_once(
    tmp_path: Path, batch_size: int, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    first, second = Points(), Points()
    trainer(tmp_path, data=DataModule(train=first), callbacks=[StopAt(3)], **settings).train()
    ours = trainer(tmp_path, data=DataModule(train=second), per_device_train_batch_size=batch_size, **settings)
    ours.train(resume_from_checkpoint=True)
    assert sorted(first.fetched + second.fetched) == list(range(64))
    assert (ours.state.global_step, ours.state.epoch) == (steps, 1.0)
    assert ours.get_learning_rates() == [0.0, 0.0]
    assert f"batch_size 8 -> {batch_size}" in caplog.text


def test_a_run_that_stopped_inside_an_epoch_goes_on_inside_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "epoch", "lr_scheduler_type": "constant"}
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    trainer(tmp_path / "cut", callbacks=[StopAt(11)], **settings).train()
    resumed = trainer(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 16
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_the_tasks_own_scalars_of_an_open_window_go_on(tmp_path: Path) -> None:
    class Logging(Fit):
        def training_step(self, batch: Any) -> Any:
            self.log("sum", batch["x"].sum())
            return super().training_step(batch)

    whole = trainer(tmp_path / "whole", Logging, lr_scheduler_type="cosine")
    whole.train()
    resumed = interrupted_and_resumed(tmp_path / "cut", 6, Logging)
    rows = [[row["sum"] for row in t.state.log_history if "sum" in row] for t in (whole, resumed)]
    assert rows[0] == rows[1]


def test_another_seed_on_resume_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, callbacks=[StopAt(4)], **settings).train()
    trainer(tmp_path, seed=7, **settings).train(resume_from_checkpoint=True)
    assert "seed 42 -> 7" in caplog.text


def test_a_moved_output_folder_still_has_its_best_checkpoint(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True}
    trainer(tmp_path / "old", callbacks=[StopAt(8)], learning_rate=1e-9, **settings).train()
    (tmp_path / "old").rename(tmp_path / "new")
    ours = trainer(tmp_path / "new", learning_rate=1e-9, **settings)
    assert ours.train(resume_from_checkpoint=True).global_step == 16


def test_ignore_data_skip_starts_the_epoch_over(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    trainer(tmp_path, callbacks=[StopAt(6)], **settings).train()
    data = Points()
    ours = trainer(tmp_path, data=DataModule(train=data), ignore_data_skip=True, **settings)
    ours.train(resume_from_checkpoint=True)
    assert (len(data.fetched), ours.state.global_step) == (2 * 8, 8)


def test_a_loader_of_the_user_is_resumed_by_skipping(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def loader() -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader(Points(), batch_size=8)

    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    whole = trainer(tmp_path / "whole", data=DataModule(train=loader()), save_strategy="no")
    whole.train()
    trainer(tmp_path / "cut", data=DataModule(train=loader()), callbacks=[StopAt(5)], **settings).train()
    resumed = trainer(tmp_path / "cut", data=DataModule(train=loader()), **settings)
    with caplog.at_level(logging.INFO, "hftrain"):
        resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert "Loaded and dropped 5 batches" in caplog.text


def test_the_log_says_where_a_run_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hftrain"):
        interrupted_and_resumed(tmp_path, 5)
    assert f"Resuming from {tmp_path}/checkpoint-5: step 5 of 16" in caplog.text


@pytest.mark.parametrize("value", ["auto", True])
def test_the_newest_checkpoint_is_taken(tmp_path: Path, value: Any) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}
    trainer(tmp_path, callbacks=[StopAt(5)], **settings).train()
    data = Points()
    trainer(tmp_path, data=DataModule(train=data), **settings).train(resume_from_checkpoint=value)
    assert len(data.fetched) == 64 - 4 * 8


def test_auto_starts_afresh_where_nothing_is(tmp_path: Path) -> None:
    ours = trainer(tmp_path, resume_from_checkpoint="auto", num_train_epochs=1)
    assert ours.train().global_step == 8


def test_auto_as_an_argument_is_read_by_train(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1}
    trainer(tmp_path, callbacks=[StopAt(4)], **settings).train()
    data = Points()
    trainer(tmp_path, data=DataModule(train=data), resume_from_checkpoint="auto", **settings).train()
    assert len(data.fetched) == 32


def test_false_means_a_fresh_start(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1}
    trainer(tmp_path, **settings).train()
    data = Points()
    trainer(tmp_path, data=DataModule(train=data), **settings).train(resume_from_checkpoint=False)
    assert len(data.fetched) == 64


def test_a_path_in_the_arguments_is_the_scripts_own(tmp_path: Path) -> None:
    ours = trainer(tmp_path, resume_from_checkpoint="somewhere", num_train_epochs=1)
    assert ours.train().global_step == 8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, r"No valid checkpoint found in output directory \("),
        ("nowhere", "Can't find a valid checkpoint at nowhere"),
    ],
)
def test_a_checkpoint_that_is_not_there_has_the_documented_wording(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).train(resume_from_checkpoint=value)


def test_a_wrong_type_of_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="resume_from_checkpoint=3 is a int"):
        trainer(tmp_path).train(resume_from_checkpoint=3)  # type: ignore[arg-type]


def test_a_model_only_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "save_only_model": True}
    trainer(tmp_path, **settings).train()
    assert not (tmp_path / "checkpoint-4" / "optimizer.safetensors").exists()
    with pytest.raises(CheckpointError, match="holds a model only"):
        trainer(tmp_path, **settings).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["trainer_state", "data", "run"])
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, name: str) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=16).train()
    folder = tmp_path / "checkpoint-16"
    exchange(folder, f"{name}.json", b"[1]")  # with its checksum
    with pytest.raises(CheckpointError, match=f"{name}.json holds no JSON object"):
        trainer(tmp_path).train(resume_from_checkpoint=str(folder))


def test_the_state_of_callbacks_is_restored_when_asked(tmp_path: Path) -> None:
    from hftrain import EarlyStoppingCallback

    settings: dict[str, Any] = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "metric_for_best_model": "loss",
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,
    }
    stopping = EarlyStoppingCallback(early_stopping_patience=7)
    trainer(tmp_path, callbacks=[stopping, StopAt(8)], **settings).train()
    fresh = trainer(tmp_path, callbacks=[EarlyStoppingCallback(early_stopping_patience=1)], **settings)
    fresh.train(resume_from_checkpoint=True)
    restored = [c for c in fresh.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    assert restored[0].early_stopping_patience == 7


def test_the_run_id_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    first = trainer(tmp_path, callbacks=[StopAt(4)], **settings)
    first.train()
    second = trainer(tmp_path, **settings)
    second.train(resume_from_checkpoint=True)
    manifest = json.loads((tmp_path / "checkpoint-16" / "MANIFEST.json").read_text())
    assert first.run_id == second.run_id == manifest["run_id"]
