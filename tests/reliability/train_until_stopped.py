"""The run that test_preemption.py stops: `python train_until_stopped.py OUTPUT_DIR [name=value ...]`.

Prints `pid 17 rank 0`, `resumed 6`, `step 7` after each step, `evaluating` with each evaluated batch, and `done`.
At the end rank 0 saves its weights to OUTPUT_DIR/weights.pt. ``wait`` is how long a step takes, in seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hftrain import DataModule, Trainer, TrainerCallback, TrainingArguments
from tests.reliability.train_small_task import SmallTask, small_data


class EvaluatedTask(SmallTask):
    def eval_step(self, batch: list[torch.Tensor]) -> dict[str, Any]:
        return {"loss": self.training_step(batch)}


class Announce(TrainerCallback):
    def __init__(self, wait: float) -> None:
        self.wait = wait

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        say("pid", os.getpid(), "rank", os.environ.get("RANK", "0"))
        say("resumed", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        say("step", state.global_step)
        time.sleep(self.wait)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        say("evaluating")
        time.sleep(self.wait)


def say(*words: Any) -> None:
    """One write, so that lines of several processes do not mix."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main(output_dir: str, *changes: str) -> None:
    settings = {name: json.loads(value) for name, _, value in (change.partition("=") for change in changes)}
    wait = settings.pop("wait", 0.0)
    fixed: dict[str, Any] = {
        "num_train_epochs": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "seed": 7,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    args = TrainingArguments(output_dir, **{**fixed, **settings})
    torch.manual_seed(args.seed)
    data = DataModule(train=small_data(), eval=small_data())
    trainer = Trainer(model=EvaluatedTask(), args=args, datamodule=data, callbacks=[Announce(wait)])
    trainer.train(resume_from_checkpoint="auto")
    if trainer.is_world_process_zero():
        torch.save(trainer.model.state_dict(), Path(output_dir) / "weights.pt")
    say("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
