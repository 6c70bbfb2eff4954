"""A run on the GPU goes on bit for bit where it was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.gpu.models import NEEDS_GPU, Regression, regression_trainer

pytestmark = NEEDS_GPU


def trained(folder: Path, *, resume_from: str | None = None, **changes: Any) -> dict[str, Tensor]:
    """Weights after 12 steps with dropout; checkpoints at 5 and 10, the first in the middle of an epoch."""
    task = Regression(dropout=0.3)
    trainer = regression_trainer(folder, task, max_steps=12, save_strategy="steps", save_steps=5, **changes)
    trainer.train(resume_from_checkpoint=resume_from)
    return {name: weights.cpu() for name, weights in task.state_dict().items()}


@pytest.mark.parametrize("changes", [{}, {"bf16": True}, {"fp16": True}, {"gradient_accumulation_steps": 2}])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, changes: dict[str, Any]) -> None:
    uninterrupted = trained(tmp_path, **changes)
    torch.cuda.manual_seed_all(999)  # the device's random state must come from the checkpoint
    resumed = trained(tmp_path, resume_from=str(tmp_path / "checkpoint-5"), **changes)
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


def test_a_run_resumed_with_other_random_numbers_would_differ(tmp_path: Path) -> None:
    assert any(
        not torch.equal(*pair)
        for pair in zip(trained(tmp_path).values(), trained(tmp_path, seed=7).values(), strict=True)
    )
