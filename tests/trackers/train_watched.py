"""Trains 200 steps and reports them to the tracker, which may watch and keep the model: ``train_watched.py TRACKER``.

The task's evaluation is the worse the longer it trains: of its two checkpoints, the one of step 100 is the best.
"""

from __future__ import annotations

import dataclasses
import sys

import torch
from torch import Tensor, nn
from train import loopback_only

from hftrain import DataModule, TaskModule, Trainer, TrainingArguments


class GetsWorse(TaskModule):
    """Its weight grows with each step, and its evaluation is the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)

    def training_step(self, batch: Tensor) -> Tensor:
        return -self.net(batch).mean()

    def eval_step(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": self.net(batch).mean().exp()}


def main(tracker: str) -> None:
    """Train."""
    loopback_only()
    torch.manual_seed(0)
    args = TrainingArguments(
        "out",
        report_to=tracker,
        run_name="watched run",
        use_cpu=True,
        max_steps=200,
        logging_steps=20,
        eval_strategy="steps",
        eval_steps=100,
        save_steps=100,
        load_best_model_at_end=True,
        per_device_train_batch_size=1,
        learning_rate=0.01,
        disable_tqdm=True,
    )
    trainer = Trainer(GetsWorse(), args, datamodule=DataModule(train=torch.ones(200, 3), eval=torch.ones(4, 3)))
    tracking = trainer._tracking
    assert tracking is not None
    tracking._settings = dataclasses.replace(tracking._settings, start_s=120.0)  # a busy machine is slow to import
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
