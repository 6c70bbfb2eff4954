"""Two processes, one of which runs out of memory: both go on, with the same smaller batches."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hftrain import DataModule, TaskModule, Trainer
from tests.distributed.launch import launch
from tests.trainer.tasks import Fit, Points, arguments

pytestmark = pytest.mark.slow


class Uneven(TaskModule):
    """Only the second process has too little memory for more than two samples, and not from the beginning."""

    def __init__(self, first: int = 1, fails_late: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.first, self.fails_late, self.calls = first, fails_late, 0

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        is_too_large = os.environ["RANK"] == "1" and self.calls >= self.first and len(batch["x"]) > 2
        if is_too_large and not self.fails_late:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        loss = functional.mse_loss(self.net(batch["x"]).squeeze(1), batch["y"])
        if is_too_large:  # in the backward, when other gradients are there already
            loss.register_hook(_out_of_memory)
        return loss


def _out_of_memory(grad: Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def run(changes: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = Uneven(**task)
        settings = arguments(folder, max_grad_norm=1.0, optim="sgd", logging_steps=2, **changes)
        ours = Trainer(model, settings, datamodule=DataModule(train=Points(48)))
        ours.train()
        rows = [row["loss"] for row in ours.state.log_history if "loss" in row]
        weights = torch.cat([p.detach().flatten() for p in ours.model.parameters()]).tolist()
        return {"size": ours._train_batch_size, "steps": ours.state.global_step, "rows": rows, "weights": weights}


def found_and_asked() -> list[dict[str, Any]]:
    found = run({"auto_find_batch_size": True}, {})
    return [found, run({"per_device_train_batch_size": 2}, {"first": 10**9})]


def found_in_the_backward_of_a_later_step() -> list[dict[str, Any]]:
    changes = {"auto_find_batch_size": True, "auto_batch_keep_global": True, "gradient_accumulation_steps": 2}
    return [run(changes, {"first": 4, "fails_late": True})]


def too_large_for_one() -> str:
    class Tiny(Fit):
        def training_step(self, batch: dict[str, Tensor]) -> Any:
            if os.environ["RANK"] == "1":
                raise torch.OutOfMemoryError("only here")
            return super().training_step(batch)

    with tempfile.TemporaryDirectory() as folder:
        settings = arguments(folder, auto_find_batch_size=True, per_device_train_batch_size=2)
        try:
            Trainer(Tiny(), settings, datamodule=DataModule(train=Points(48))).train()
        except RuntimeError as error:
            return str(error)
    return "no error"


def test_the_processes_agree_and_the_run_becomes_that_of_the_size_that_fits_all() -> None:
    first, second = launch(found_and_asked)
    for found, asked in (first, second):
        assert (found["size"], found["steps"]) == (asked["size"], asked["steps"]) == (2, 24)
        assert found["rows"] == pytest.approx(asked["rows"], abs=1e-6)
        assert found["weights"] == pytest.approx(asked["weights"], abs=1e-6)
    assert first[0]["weights"] == second[0]["weights"]


def test_a_backward_that_does_not_fit_is_made_again_by_all() -> None:
    (first,), (second,) = launch(found_in_the_backward_of_a_later_step)
    assert (first["size"], first["steps"]) == (2, 4)
    assert first == second


def test_both_say_that_not_even_one_sample_fits() -> None:
    for message in launch(too_large_for_one):
        assert "No executable batch size found" in message
        assert "only here" in message
