"""Half precision on a GPU: overflows are skipped, and the losses stay near those of fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain import TrainerCallback
from tests.gpu.models import NEEDS_GPU, Regression, regression_trainer

pytestmark = NEEDS_GPU

OVERFLOWING_STEP = 3


class Overflowing(Regression):
    """Makes the gradients of one step infinite."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.num_calls = 0

    def training_step(self, batch: list[Tensor]) -> Tensor:
        self.num_calls += 1
        loss = super().training_step(batch)
        return loss * float("inf") if self.num_calls == OVERFLOWING_STEP else loss


class Record(TrainerCallback):
    """Keep the weights and the scheduler's count after every step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.scheduler_steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = [parameter.detach().flatten() for parameter in kwargs["model"].parameters()]
        self.weights.append(torch.cat(parameters).cpu())
        self.scheduler_steps.append(kwargs["lr_scheduler"].last_epoch)


def test_an_overflow_in_fp16_skips_the_step_and_the_scheduler_waits(tmp_path: Path) -> None:
    record = Record()
    regression_trainer(tmp_path, Overflowing(), callbacks=[record], max_steps=6, fp16=True).train()
    moved = [not torch.equal(*pair) for pair in zip(record.weights, record.weights[1:], strict=False)]
    assert moved == [True, False, True, True, True]
    assert record.scheduler_steps == [1, 2, 2, 3, 4, 5]
    assert all(weights.isfinite().all() for weights in record.weights)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_losses_in_half_precision_follow_those_in_fp32(tmp_path: Path, precision: str) -> None:
    losses = []
    settings: list[dict[str, Any]] = [{}, {precision: True}]
    for changes in settings:
        torch.manual_seed(0)
        trainer = regression_trainer(tmp_path, Regression(dropout=0.0), max_steps=60, logging_steps=10, **changes)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    full, half = losses
    assert half == pytest.approx(full, rel=0.05)
    assert half[-1] < 0.5 * half[0]
