"""How often a steady-state step makes the host wait for the GPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import TrainerCallback
from tests.gpu.models import NEEDS_GPU, regression_trainer

pytestmark = NEEDS_GPU

FIRST_STEP, NUM_STEPS = 5, 20


class WatchSteadyState(TrainerCallback):
    """Let torch report synchronisations in ``NUM_STEPS`` steps, once the first ones have allocated everything."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.steps_watched = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == FIRST_STEP:
            torch.cuda.set_sync_debug_mode(self.mode)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps_watched += torch.cuda.get_sync_debug_mode() != 0
        if state.global_step == FIRST_STEP + NUM_STEPS:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Any:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("changes", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2}])
def test_a_step_in_fp32_or_bf16_never_waits_for_the_gpu(tmp_path: Path, changes: dict[str, Any]) -> None:
    watch = WatchSteadyState("error")
    regression_trainer(tmp_path, callbacks=[watch], max_steps=FIRST_STEP + NUM_STEPS + 5, **changes).train()
    assert watch.steps_watched == NUM_STEPS


def test_a_step_in_fp16_waits_exactly_once(tmp_path: Path) -> None:
    watch = WatchSteadyState("warn")
    trainer = regression_trainer(tmp_path, callbacks=[watch], max_steps=FIRST_STEP + NUM_STEPS + 5, fp16=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    assert len(waits) == watch.steps_watched == NUM_STEPS
