"""Two processes that go on with the same batches end bit for bit as they would have uninterrupted."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.distributed.launch import launch
from tests.trainer.tasks import CountedFit, Fit, weights
from tests.trainer.test_resume import StopAt
from tests.trainer.test_same_shape import run

pytestmark = pytest.mark.slow

KINDS = [
    "a data set",
    "a data set with workers",
    "groups of one length",
    "torch's order",
    "a sampler of the user",
    "a shuffled loader",
    "a loader with a generator",
]


def differing(folder: str, kinds: list[str], counted: bool) -> list[str]:
    """Train each kind whole, and cut after each of the first steps; return where the weights differ."""
    found = []
    task = CountedFit if counted else Fit
    for kind in kinds:
        whole = run(Path(folder) / kind, kind, task=task, num_train_epochs=2)
        whole.train()
        for step in (1, 2, 3):
            cut = Path(folder) / f"{kind} {step}"
            run(cut, kind, StopAt(step), task=task, save_strategy="steps", save_steps=1).train()
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(99 + int(os.environ["RANK"]))
            again = run(cut, kind, task=task)
            again.train(resume_from_checkpoint=True)
            is_same = again.state.global_step == 4 and torch.equal(weights(again.model), weights(whole.model))
            found += [] if is_same else [f"{kind}, step {step}"]
    return found


@pytest.mark.parametrize("counted", [False, True])
def test_weights_of_two_processes_are_bitwise_equal(tmp_path: Path, counted: bool) -> None:
    kinds = KINDS[:3] if counted else KINDS
    assert launch(differing, str(tmp_path), kinds, counted) == [[], []]
