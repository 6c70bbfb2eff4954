"""Trains a tiny task and reports it: started in a process of its own, since clients hook into theirs.

``python train.py TRACKER OUTPUT_DIR [--resume] [--fail-at STEP] [--kill-at STEP] [--interrupt-at STEP]``, and more:
20 rows, of the steps 1 to 20; the loss is 1 / step. With ``--odd``, what may be in the way of a service is told too:
thousands of parameters, very long ones, rows of what is no number; and a picture, a histogram, a text and a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hftrain import DataModule, TaskModule, Trainer, TrainerCallback, TrainingArguments
from hftrain.callbacks.tracking import Tracking

_called: Callable[[], None]
_resolve = socket.getaddrinfo


def _loopback_only(host: Any, *rest: Any, **named: Any) -> Any:
    if host not in (None, "localhost", "127.0.0.1", "::1", b"localhost"):
        raise socket.gaierror(f"no network in tests: {host}")
    return _resolve(host, *rest, **named)


def loopback_only() -> None:
    """Have every look-up of another machine's address fail."""
    socket.getaddrinfo = _loopback_only


class Countdown(TaskModule):
    """Its loss at each step is one over the step. It takes more than it needs, since trackers are told of that."""

    def __init__(self, width: int = 2, long: str = "", many: dict[str, int] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch: Tensor) -> Tensor:
        self.steps += 1
        return 1 / self.steps + (self.weight * batch.mean()).sum() * 0


class EndAt(TrainerCallback):
    """Ends the run at a step: by an error, or by a signal to this process, after the trackers were told if given."""

    tracking: Tracking | None = None

    def __init__(self, step: int, number: int | None = None) -> None:
        self.step, self.number = step, number

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != self.step:
            return
        if self.number is None:
            raise RuntimeError("as the test asked")
        until = time.monotonic() + 60
        while self.tracking is not None and any(one.num_left for one in self.tracking._deliveries):
            if time.monotonic() > until:
                raise TimeoutError("the trackers were not told within 60 s of what came before the end")
            time.sleep(0.05)
        os.kill(os.getpid(), self.number)


class TellOddThings(TrainerCallback):
    """Tells a row of odd values after step 3, and what is to be seen after step 12."""

    trainer: Trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            odd = {"nan": float("nan"), "inf": float("inf"), "text": "words", "none": None}
            self.trainer.log({**odd, "tensor": torch.tensor(1.5), "numpy": np.float32(2.5), "list": [1, 2]})  # type: ignore[dict-item]
        if state.global_step == 12:
            self.trainer.log_media("picture", np.eye(8), kind="image")
            self.trainer.log_media("weights", np.arange(100.0), kind="histogram")
            self.trainer.log_media("sample", "words & <more>", kind="text")
            os.makedirs("notes", exist_ok=True)
            with open("notes/note.txt", "w", encoding="utf-8") as file:
                file.write("kept")
            self.trainer.log_artifacts("notes")


def short_run(tracker: str, folder: Path, *, steps: int, close_s: float, callback: TrainerCallback) -> Trainer:
    """Return a Trainer that reports each of its steps, and saves nothing."""
    args = TrainingArguments(
        str(folder),
        report_to=tracker,
        use_cpu=True,
        max_steps=steps,
        logging_steps=1,
        save_strategy="no",
        per_device_train_batch_size=1,
        tracker_close_s=close_s,
        disable_tqdm=True,
    )
    return Trainer(Countdown(width=3), args, datamodule=DataModule(train=torch.ones(steps, 2)), callbacks=[callback])


def main() -> None:
    """Train as the command line asks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tracker")
    parser.add_argument("output_dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--fail-at", type=int)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--interrupt-at", type=int)
    parser.add_argument("--told-first", action="store_true")
    parser.add_argument("--odd", action="store_true")
    options = parser.parse_args()
    loopback_only()
    in_its_place(options.tracker, lambda: train(options))


def in_its_place(tracker: str, call: Callable[[], None]) -> None:
    """Call it where the tracker's users do: in a task of Flyte, or right here."""
    if tracker != "flyte":
        call()
        return
    from flytekit import task

    global _called
    _called = call
    task(enable_deck=True)(_call)()


def _call() -> None:
    _called()


def train(options: argparse.Namespace) -> None:
    """Train, and end as the options say."""
    args = TrainingArguments(
        options.output_dir,
        report_to=options.tracker,
        run_name="first-run",
        use_cpu=True,
        max_steps=20,
        logging_steps=1,
        save_steps=10,
        save_async=False,  # what is killed at step 15 has a checkpoint then
        per_device_train_batch_size=1,
        learning_rate=0.01,
        disable_tqdm=True,
    )
    ends = ((options.fail_at, None), (options.kill_at, signal.SIGKILL), (options.interrupt_at, signal.SIGTERM))
    callbacks = [EndAt(step, number) for step, number in ends if step is not None]
    extra: dict[str, Any] = {"long": "x" * 50_000, "many": {f"p{i}": i for i in range(2000)}} if options.odd else {}
    trainer = Trainer(
        Countdown(width=3, **extra), args, datamodule=DataModule(train=torch.ones(20, 2)), callbacks=list(callbacks)
    )
    if options.odd:
        tells = TellOddThings()
        tells.trainer = trainer
        trainer.add_callback(tells)
    # A machine that does much else takes longer than the limit to import some clients.
    tracking = trainer._tracking
    assert tracking is not None
    for ending in callbacks if options.told_first else []:
        ending.tracking = tracking
    tracking._settings = dataclasses.replace(tracking._settings, start_s=120.0)
    trainer.train(resume_from_checkpoint="auto" if options.resume else None)


if __name__ == "__main__":
    main()
