from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hftrain import DataModule, Trainer, TrainerCallback
from hftrain.errors import CheckpointError, TaskError
from tests.trainer.tasks import Fit, Model, Points, arguments, trainer, weights

SAVED = {
    "MANIFEST.json",
    "data.json",
    "model.safetensors",
    "optimizer.json",
    "optimizer.safetensors",
    "rng-0.json",
    "rng-0.safetensors",
    "run.json",
    "scheduler.json",
    "task.json",
    "trainer_state.json",
    "training_args.json",
}


def checkpoints(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))


def test_a_checkpoint_holds_the_documented_files_and_no_pickle(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=8).train()
    assert {path.name for path in (tmp_path / "checkpoint-8").iterdir()} == SAVED


def test_the_manifest_says_what_and_where(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=12).train()
    manifest = json.loads((tmp_path / "checkpoint-12" / "MANIFEST.json").read_text())
    assert (manifest["step"], manifest["epoch"], manifest["samples"], manifest["world_size"]) == (12, 1.5, 96, 1)
    assert set(manifest["files"]) == SAVED - {"MANIFEST.json"}


def test_the_state_can_be_read_by_the_reference(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=8, eval_strategy="steps", eval_steps=8).train()
    state = transformers.TrainerState.load_from_json(str(tmp_path / "checkpoint-16" / "trainer_state.json"))
    assert (state.global_step, state.epoch, state.max_steps) == (16, 2.0, 16)


def test_the_last_step_is_always_saved(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=6).train()
    assert checkpoints(tmp_path) == ["checkpoint-6", "checkpoint-12", "checkpoint-16"]


def test_the_limit_keeps_the_newest(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=3, save_total_limit=2).train()
    assert checkpoints(tmp_path) == ["checkpoint-15", "checkpoint-16"]


def test_every_so_many_steps_a_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1, "save_keep_every_steps": 6}
    trainer(tmp_path, **changes).train()
    assert checkpoints(tmp_path) == ["checkpoint-6", "checkpoint-12", "checkpoint-16"]


class Scripted(Fit):
    """Its evaluation loss is what a list says, one entry an evaluation."""

    losses = (3.0, 1.0, 2.0, 4.0)

    def __init__(self) -> None:
        super().__init__()
        self.evaluations = 0

    def eval_step(self, batch: Any) -> dict[str, Any]:
        self.evaluations += 1
        return {"loss": torch.tensor(self.losses[self.evaluations - 1])}


def best_run(folder: Path, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "metric_for_best_model": "loss",
        **changes,
    }
    ours = trainer(folder, Scripted(), DataModule(train=Points(), eval=Points(8)), **settings)
    ours.train()
    return ours


def test_the_best_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    ours = best_run(tmp_path, save_total_limit=2)
    assert checkpoints(tmp_path) == ["checkpoint-8", "checkpoint-16"]
    assert ours.state.best_model_checkpoint == str(tmp_path / "checkpoint-8")
    assert (ours.state.best_metric, ours.state.best_global_step) == (1.0, 8)


def test_at_the_end_a_limit_of_one_keeps_only_the_best(tmp_path: Path) -> None:
    best_run(tmp_path, save_total_limit=1, load_best_model_at_end=True)
    assert checkpoints(tmp_path) == ["checkpoint-8"]


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    ours = best_run(tmp_path, load_best_model_at_end=True)
    assert torch.equal(weights(ours.model), weights(Scripted.from_checkpoint(str(tmp_path / "checkpoint-8"))))


def test_a_model_alone_is_enough_for_the_best_to_be_loaded(tmp_path: Path) -> None:
    ours = best_run(tmp_path, load_best_model_at_end=True, save_only_model=True, save_total_limit=1)
    assert checkpoints(tmp_path) == ["checkpoint-8"]
    assert not (tmp_path / "checkpoint-8" / "optimizer.safetensors").exists()
    assert torch.equal(weights(ours.model), weights(Scripted.from_checkpoint(str(tmp_path / "checkpoint-8"))))


def test_what_is_being_uploaded_stays_while_the_run_goes_on_and_when_it_ends(tmp_path: Path) -> None:
    class Uploading(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                run_id = json.loads((tmp_path / "checkpoint-4" / "run.json").read_text())["run_id"]
                (tmp_path / "runs" / run_id).mkdir(parents=True)
                held = {"v": 1, "held": ["checkpoint-4"]}
                (tmp_path / "runs" / run_id / "held.json").write_text(json.dumps(held))

    best_run(tmp_path, callbacks=[Uploading()], load_best_model_at_end=True, save_total_limit=1, save_async=False)
    assert checkpoints(tmp_path) == ["checkpoint-4", "checkpoint-8"]


def test_save_strategy_best_saves_only_improvements(tmp_path: Path) -> None:
    best_run(tmp_path, save_strategy="best")
    assert checkpoints(tmp_path) == ["checkpoint-4", "checkpoint-8"]


def test_a_best_step_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    ours = best_run(tmp_path, save_steps=12)
    assert (ours.state.best_global_step, ours.state.best_model_checkpoint) == (8, None)


def test_a_task_is_rebuilt_from_its_checkpoint(tmp_path: Path) -> None:
    ours = trainer(tmp_path, Fit(hidden=6), save_strategy="epoch")
    ours.train()
    rebuilt = Fit.from_checkpoint(str(tmp_path / "checkpoint-16"), dropout=0.5)
    assert rebuilt.init_arguments == {"hidden": 6, "dropout": 0.5}
    assert torch.equal(weights(rebuilt), weights(ours.model))


def test_a_saved_model_is_rebuilt_too(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.save_model(str(tmp_path / "model"))
    rebuilt = Fit.from_checkpoint(str(tmp_path / "model"))
    assert torch.equal(weights(rebuilt), weights(ours.model))


def test_another_class_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).save_model()
    with pytest.raises(TaskError, match="Call Fit.from_checkpoint"):
        Scripted.from_checkpoint(str(tmp_path))


def test_a_folder_without_a_task_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Fit.from_checkpoint(str(tmp_path))


def test_a_plain_modules_weights_can_be_read_by_anyone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ours = Trainer(Model(), arguments(tmp_path), train_dataset=Points())
    ours.save_model()
    assert set(load_file(tmp_path / "model.safetensors")) == {"net.weight", "net.bias"}


def test_shards_follow_max_shard_size(tmp_path: Path) -> None:
    trainer(tmp_path, Fit(hidden=64), max_shard_size="1KB").save_model()
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert len(weights(Fit.from_checkpoint(str(tmp_path)))) == 64 * 6 + 1


def test_save_state_writes_the_state(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.train()
    ours.save_state()
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 16


def test_a_checkpoint_in_memory_is_written_and_resumed() -> None:
    folder = "memory://runs/test"
    trainer(folder, save_strategy="steps", save_steps=4, num_train_epochs=1).train()
    ours = trainer(folder, save_strategy="steps", save_steps=4, num_train_epochs=2)
    ours.train(resume_from_checkpoint=True)
    assert ours.state.global_step == 16
