"""Trains twelve steps with a save every four, told to ``record`` (our own) and ``notes``; kills itself at a step given.

``python train_told.py OUTPUT_DIR [KILL_STEP]``: the same command goes on from the newest checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from hftrain import TrainerCallback
from tests.trainer.tasks import trainer


class KillAt(TrainerCallback):
    """Kills the process at a step, once the tracker was told the row of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            while not _was_told(self.step - 1):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


def _was_told(step: int) -> bool:
    with open(os.environ["NOTES"], encoding="utf-8") as file:
        return f'["log", {step}, ' in file.read()


def main() -> None:
    """Train, or go on."""
    output_dir, *kill = sys.argv[1:]
    run = trainer(
        output_dir,
        report_to=["record", "notes"],
        max_steps=12,
        logging_steps=1,
        save_strategy="steps",
        save_steps=4,
        save_async=False,
        callbacks=[KillAt(int(step)) for step in kill],
    )
    run.train(resume_from_checkpoint="auto")


if __name__ == "__main__":
    main()
