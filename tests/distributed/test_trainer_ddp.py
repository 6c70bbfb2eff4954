"""The Trainer in two gloo processes beside one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MeanSquaredError

from hftrain import DataModule, TaskModule, Trainer
from hftrain.errors import CheckpointError, ConfigurationError
from tests.distributed.launch import launch
from tests.trainer.tasks import CountedFit, Fit, Model, Points, arguments, trainer, weights

pytestmark = pytest.mark.slow


class Steady(Fit):
    """Without dropout: two processes draw other random numbers than one."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)

    def configure_metrics(self) -> Any:
        return {"mse": MeanSquaredError()}


class SteadyCounted(CountedFit):
    def __init__(self) -> None:
        super().__init__(dropout=0.0)


TASKS: dict[str, type[TaskModule]] = {"mean": Steady, "counted": SteadyCounted}


def train(folder: str, kind: str, batch_size: int, samples: int, changes: dict[str, Any]) -> dict[str, Any]:
    data = DataModule(train=Points(samples), eval=Points(21, seed=1))
    ours = trainer(folder, TASKS[kind], data, per_device_train_batch_size=batch_size, logging_steps=1, **changes)
    result = ours.train()
    evaluation = ours.evaluate()
    predictions = ours.predict(Points(21, seed=1)).predictions.tolist()
    return {
        "weights": weights(ours.model).tolist(),
        "loss": result.training_loss,
        "losses": [row["loss"] for row in ours.state.log_history if "loss" in row],
        "eval": [evaluation["eval_loss"], evaluation.get("eval_mse", 0.0)],
        "predictions": predictions,
    }


def resumed(folder: str, steps: int) -> list[float]:
    # The run is cut at step 5 by another process; the horizon is the same, so the schedule is too.
    from tests.trainer.test_resume import StopAt

    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 3}
    cut = trainer(folder, Fit, callbacks=[StopAt(steps)] if steps else [], **settings)
    cut.train(resume_from_checkpoint=None if steps else "auto")
    return weights(cut.model).tolist()


def plain(folder: str, batch_size: int) -> list[float]:
    torch.manual_seed(0)
    ours = Trainer(
        Model(), arguments(folder, per_device_train_batch_size=batch_size, max_steps=6), train_dataset=Points()
    )
    ours.train()
    return weights(ours.model).tolist()


@pytest.mark.parametrize(
    ("kind", "samples", "changes"),
    [
        ("mean", 64, {}),
        ("mean", 64, {"gradient_accumulation_steps": 2, "optim": "sgd"}),
        ("counted", 64, {"gradient_accumulation_steps": 3}),
    ],
)
def test_two_processes_equal_one_with_the_whole_batch(
    tmp_path: Path, kind: str, samples: int, changes: dict[str, Any]
) -> None:
    one = train(str(tmp_path / "one"), kind, 8, samples, changes)
    first, second = launch(train, str(tmp_path / "two"), kind, 4, samples, changes)
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(one["weights"], abs=1e-6)
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert first["eval"] == second["eval"] == pytest.approx(one["eval"], rel=1e-5)
    assert first["predictions"] == second["predictions"] == pytest.approx(one["predictions"], abs=1e-5)


def test_a_run_of_two_processes_resumes_bitwise(tmp_path: Path) -> None:
    whole = launch(resumed, str(tmp_path / "whole"), 0)
    launch(resumed, str(tmp_path / "cut"), 6)
    assert (tmp_path / "cut" / "checkpoint-5" / "rng-1.json").exists()
    assert launch(resumed, str(tmp_path / "cut"), 0) == whole
    assert whole[0] == whole[1]


class Unsaved(Trainer):
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        raise ValueError("mine")


def saved(folder: str) -> str:
    ours = Unsaved(Model(), arguments(folder), train_dataset=Points())
    try:
        ours.save_model()
    except (ValueError, CheckpointError) as error:
        ours.accelerator.wait_for_everyone()  # neither has gone
        return str(error)
    return "saved"


def test_a_model_that_the_main_process_cannot_save_is_an_error_on_all(tmp_path: Path) -> None:
    assert launch(saved, str(tmp_path)) == ["mine", "On rank 0: ValueError: mine"]


def uneven(folder: str) -> str:
    data = DataModule(train=Points(36))
    try:
        trainer(folder, Steady, data, accelerator_config={"even_batches": False}).train()
    except ConfigurationError as error:
        return str(error)
    return "trained"


def test_uneven_ranks_are_refused_before_the_first_step(tmp_path: Path) -> None:
    for said in launch(uneven, str(tmp_path)):
        assert "The processes have 3, 2 training batches" in said


def test_a_plain_module_averages_over_processes_too(tmp_path: Path) -> None:
    one = plain(str(tmp_path / "one"), 8)
    both = launch(plain, str(tmp_path / "two"), 4)
    assert both[0] == both[1] == pytest.approx(one, abs=1e-6)
