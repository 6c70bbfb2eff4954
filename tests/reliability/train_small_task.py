"""The run that test_kill_and_resume.py kills: `python train_small_task.py OUTPUT_DIR WHEN`, repeated until it is done.
WHEN: "now" saves before it goes on, "later" while it does.

Prints `resumed 6` (0 for a fresh start), `step 7` after each optimizer step and before the checkpoint of that step,
and `done`. After each step it waits for a line on stdin, so that a kill cannot come later than one step after the
announced one, however busy the machine is.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hftrain import DataModule, TaskModule, Trainer, TrainerCallback, TrainingArguments


class SmallTask(TaskModule):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, width), nn.Tanh(), nn.Dropout(0.3), nn.LayerNorm(width), nn.Linear(width, 1)
        )

    def training_step(self, batch: list[Tensor]) -> Tensor:
        features, target = batch
        return nn.functional.mse_loss(self.net(features).squeeze(-1), target)


class Announce(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print("resumed", state.global_step, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print("step", state.global_step, flush=True)
        sys.stdin.readline()


def small_data() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(76, 8, generator=generator)  # 19 batches: the last accumulation window of an epoch has one
    return TensorDataset(features, features.sin().sum(dim=1))


def main(output_dir: str, when: str) -> None:
    args = TrainingArguments(
        output_dir,
        num_train_epochs=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=4,
        logging_steps=1,
        save_steps=3,
        save_async=when == "later",
        save_total_limit=2,
        seed=7,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    torch.manual_seed(args.seed)
    trainer = Trainer(model=SmallTask(), args=args, datamodule=DataModule(train=small_data()), callbacks=[Announce()])
    trainer.train(resume_from_checkpoint="auto")
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
