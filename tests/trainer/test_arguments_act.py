"""Arguments of the loop act: how long it runs, what it writes and when. `tests/args/argument_table.py` has the map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain import DataModule, EarlyStoppingCallback
from hftrain.callbacks.progress import PrinterCallback, ProgressCallback
from hftrain.hardware.engine import Engine
from tests.trainer.tasks import Fit, Points, trainer
from tests.trainer.test_evaluate import Measured
from tests.trainer.test_resume import StopAt
from tests.trainer.test_save import best_run, checkpoints

STEPPED = {"eval_strategy": "steps", "eval_steps": 6}


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"per_device_train_batch_size": 16}, 4),
        ({"per_device_train_batch_size": 24}, 3),
        ({"per_device_train_batch_size": 24, "dataloader_drop_last": True}, 2),
        ({"gradient_accumulation_steps": 4}, 2),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}}, 2),
        ({"num_train_epochs": 3}, 24),
        ({"max_steps": 5}, 5),
    ],
)
def test_an_epoch_of_64_samples_has_so_many_steps(tmp_path: Path, changes: dict[str, Any], steps: int) -> None:
    ours = trainer(tmp_path, **{"num_train_epochs": 1, **changes})
    assert ours.train().global_step == steps


@pytest.mark.parametrize(
    ("changes", "key", "steps"),
    [
        ({"logging_strategy": "no"}, "loss", []),
        ({"logging_strategy": "epoch"}, "loss", [8, 16]),
        ({"logging_strategy": "steps", "logging_steps": 6}, "loss", [6, 12]),
        ({"logging_steps": 6, "logging_first_step": True}, "loss", [1, 6, 12]),
        ({}, "eval_loss", []),
        ({"eval_strategy": "epoch"}, "eval_loss", [8, 16]),
        ({"eval_strategy": "steps"}, "eval_loss", [4, 8, 12, 16]),  # as often as logging
        (STEPPED, "eval_loss", [6, 12]),
        ({**STEPPED, "eval_delay": 7}, "eval_loss", [12]),
        ({**STEPPED, "eval_on_start": True}, "eval_loss", [0, 6, 12]),
    ],
)
def test_rows_come_at_these_steps(tmp_path: Path, changes: dict[str, Any], key: str, steps: list[int]) -> None:
    ours = trainer(tmp_path, **changes)
    ours.train()
    assert [row["step"] for row in ours.state.log_history if key in row] == steps


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "epoch"}, [8, 16]),
        ({"save_strategy": "steps", "save_steps": 6}, [6, 12, 16]),
        ({"save_strategy": "steps", "save_steps": 6, "save_total_limit": 2}, [12, 16]),
    ],
)
def test_checkpoints_of_these_steps_are_there(tmp_path: Path, changes: dict[str, Any], steps: list[int]) -> None:
    trainer(tmp_path, **changes).train()
    assert checkpoints(tmp_path) == [f"checkpoint-{step}" for step in steps]


@pytest.mark.parametrize(("is_filtered", "is_finite"), [(True, True), (False, False)])
def test_the_filter_keeps_a_loss_that_is_no_number_out_of_the_row(
    tmp_path: Path, is_filtered: bool, is_finite: bool
) -> None:
    class Blinking(Fit):
        def training_step(self, batch: Any) -> Any:
            self.num_steps = getattr(self, "num_steps", 0) + 1
            return super().training_step(batch) + (float("nan") if self.num_steps == 2 else 0.0)  # gradients are finite

    ours = trainer(tmp_path, Blinking(), max_steps=4, logging_nan_inf_filter=is_filtered)
    ours.train()
    assert torch.tensor(ours.state.log_history[0]["loss"]).isfinite().item() is is_finite


@pytest.mark.parametrize(("changes", "released"), [({}, []), ({"torch_empty_cache_steps": 3}, [3, 6])])
def test_memory_is_released_every_so_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], released: list[int]
) -> None:
    found: list[int] = []
    ours = trainer(tmp_path, max_steps=8, **changes)
    monkeypatch.setattr(Engine, "empty_cache", lambda self: found.append(ours.state.global_step))
    ours.train()
    assert found == released


# ---- evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "batches"), [(8, 3), (5, 4)])
def test_evaluation_has_its_own_batch_size(tmp_path: Path, batch_size: int, batches: int) -> None:
    sizes: list[int] = []

    class Sized(Fit):
        def eval_step(self, batch: Any) -> dict[str, Any]:
            sizes.append(len(batch["x"]))
            return super().eval_step(batch)

    trainer(tmp_path, Sized(), per_device_eval_batch_size=batch_size).evaluate()
    assert (sizes[0], len(sizes)) == (batch_size, batches)


@pytest.mark.parametrize(
    ("changes", "order"), [({}, "shshshshshshsh"), ({"eval_accumulation_steps": 3}, "ssshhhssshhhsh")]
)
def test_predictions_move_to_the_host_every_so_many_batches(
    tmp_path: Path, changes: dict[str, Any], order: str
) -> None:
    found: list[str] = []

    class Moves(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.cpu:
                found.append("h")
            return func(*args, **(kwargs or {}))

    class Predicting(Fit):
        def predict_step(self, batch: Any) -> Tensor:
            found.append("s")
            return self.net(batch["x"])  # type: ignore[no-any-return]

    ours = trainer(tmp_path, Predicting(), per_device_eval_batch_size=3, **changes)
    with Moves():
        ours.predict(Points(20))
    assert "".join(found) == order


@pytest.mark.parametrize("loss_only", [True, False])
def test_only_the_loss_is_computed_when_that_is_asked(tmp_path: Path, loss_only: bool) -> None:
    ours = trainer(tmp_path, Measured(), prediction_loss_only=loss_only)
    output = ours.predict(Points(8))
    assert output.metrics is not None
    assert ("test_loss" in output.metrics, "test_mse" in output.metrics) == (True, not loss_only)
    assert ((output.predictions is None), (output.label_ids is None)) == (loss_only, loss_only)
    assert ("eval_mse" in ours.evaluate()) is not loss_only


@pytest.mark.parametrize(("changes", "best"), [({}, 8), ({"greater_is_better": True}, 16)])
def test_the_best_is_the_least_or_the_greatest(tmp_path: Path, changes: dict[str, Any], best: int) -> None:
    assert best_run(tmp_path, **changes).state.best_global_step == best


@pytest.mark.parametrize(("metric", "best"), [("loss", 8), ("other", 4)])
def test_the_best_is_judged_by_the_metric_that_is_named(tmp_path: Path, metric: str, best: int) -> None:
    class Judged(Fit):
        def eval_step(self, batch: Any) -> dict[str, Any]:
            self.num = getattr(self, "num", -1) + 1
            self.log("other", (9.0, 5.0, 4.0, 3.0)[self.num])
            return {"loss": torch.tensor((3.0, 1.0, 2.0, 4.0)[self.num])}

    data = DataModule(train=Points(), eval=Points(8))
    ours = trainer(tmp_path, Judged(), data, eval_strategy="steps", metric_for_best_model=metric)
    ours.train()
    assert ours.state.best_global_step == best


@pytest.mark.parametrize(("loads", "evaluations"), [(True, 2), (False, 4)])
def test_the_best_weights_are_loaded_only_when_asked(tmp_path: Path, loads: bool, evaluations: int) -> None:
    class Counting(Fit):
        losses = (3.0, 1.0, 2.0, 4.0)

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("evaluations", torch.tensor(0))

        def eval_step(self, batch: Any) -> dict[str, Any]:
            self.evaluations += 1
            return {"loss": torch.tensor(self.losses[int(self.evaluations) - 1])}

    settings: dict[str, Any] = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 4}
    data = DataModule(train=Points(), eval=Points(8))
    ours = trainer(tmp_path, Counting(), data, load_best_model_at_end=loads, **settings)
    ours.train()
    assert int(ours.model.evaluations) == evaluations


# ---- checkpoints and rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine", None])
def test_a_checkpoint_knows_the_name_of_its_run(tmp_path: Path, name: str | None) -> None:
    trainer(tmp_path, max_steps=1, save_strategy="steps", run_name=name).train()
    run = json.loads((tmp_path / "checkpoint-1" / "run.json").read_text())
    assert run["run_name"] == (name or str(tmp_path))


@pytest.mark.parametrize("is_model_only", [True, False])
def test_a_checkpoint_may_be_the_model_only(tmp_path: Path, is_model_only: bool) -> None:
    trainer(tmp_path, max_steps=1, save_strategy="steps", save_only_model=is_model_only).train()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").exists()
    assert (tmp_path / "checkpoint-1" / "optimizer.safetensors").exists() is not is_model_only


@pytest.mark.parametrize(("restores", "patience"), [(True, 7), (False, 2)])
def test_callbacks_get_their_state_back_only_when_asked(tmp_path: Path, restores: bool, patience: int) -> None:
    settings: dict[str, Any] = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "metric_for_best_model": "loss",
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": restores,
    }
    trainer(tmp_path, callbacks=[EarlyStoppingCallback(7), StopAt(8)], **settings).train()
    fresh = EarlyStoppingCallback(2)
    resumed = trainer(tmp_path, callbacks=[fresh], **settings)
    resumed.train(resume_from_checkpoint=True)
    found = [c for c in resumed.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    assert [callback.early_stopping_patience for callback in found] == [patience]


@pytest.mark.parametrize("starts_over", [True, False])
def test_a_resumed_epoch_starts_over_or_goes_on(tmp_path: Path, starts_over: bool) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1}
    trainer(tmp_path, callbacks=[StopAt(4)], **settings).train()
    data = Points()
    resumed = trainer(tmp_path, data=DataModule(train=data), ignore_data_skip=starts_over, **settings)
    resumed.train(resume_from_checkpoint=True)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(42)).tolist()
    assert data.fetched == (order[:32] if starts_over else order[32:])


@pytest.mark.parametrize(("is_disabled", "expected"), [(True, PrinterCallback), (False, ProgressCallback)])
def test_rows_are_printed_or_a_bar_is_drawn(tmp_path: Path, is_disabled: bool, expected: type) -> None:
    callbacks = trainer(tmp_path, disable_tqdm=is_disabled).callback_handler.callbacks
    shown = [type(c) for c in callbacks if isinstance(c, (PrinterCallback, ProgressCallback))]
    assert shown == [expected]
