"""Trains a tiny task and reports it: started in a process of its own, since clients hook into theirs.

``python train.py TRACKER OUTPUT_DIR [--resume] [--fail-at STEP]``: 20 rows, of the steps 1 to 20; the loss is 1 / step.
"""

from __future__ import annotations

import argparse
import socket
from typing import Any

import torch
from torch import Tensor, nn

from hftrain import DataModule, TaskModule, Trainer, TrainerCallback, TrainingArguments

_resolve = socket.getaddrinfo


def _loopback_only(host: Any, *rest: Any, **named: Any) -> Any:
    if host not in (None, "localhost", "127.0.0.1", "::1", b"localhost"):
        raise socket.gaierror(f"no network in tests: {host}")
    return _resolve(host, *rest, **named)


class Countdown(TaskModule):
    """Its loss at each step is one over the step."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch: Tensor) -> Tensor:
        self.steps += 1
        return 1 / self.steps + (self.weight * batch.mean()).sum() * 0


class FailAt(TrainerCallback):
    """Raises at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("as the test asked")


def main() -> None:
    """Train as the command line asks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tracker")
    parser.add_argument("output_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--fail-at", type=int)
    options = parser.parse_args()
    socket.getaddrinfo = _loopback_only
    args = TrainingArguments(
        options.output_dir,
        report_to=options.tracker,
        run_name="first-run",
        use_cpu=True,
        max_steps=20,
        logging_steps=1,
        save_steps=10,
        per_device_train_batch_size=1,
        learning_rate=0.01,
        disable_tqdm=True,
    )
    trainer = Trainer(
        Countdown(width=3),
        args,
        datamodule=DataModule(train=torch.ones(20, 2)),
        callbacks=[] if options.fail_at is None else [FailAt(options.fail_at)],
    )
    trainer.train(resume_from_checkpoint="auto" if options.resume else None)


if __name__ == "__main__":
    main()
