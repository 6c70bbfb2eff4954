"""Real processes that are told to stop, and started again by the same command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(Path(__file__).with_name("train_until_stopped.py"))
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class Run:
    """A run whose output is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, start: str) -> str:
        """Read up to a line that begins so, and return it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith(start):
                return line.rstrip()
        raise AssertionError(f"no {start!r} in {self.lines}, exit {self.process.wait()}")

    def end(self) -> int:
        """Read the rest and return the exit code."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(timeout=120)

    def pid_of(self, rank: int) -> int:
        """Read on until a rank has said its process id."""
        known = (line for line in self.lines if line.startswith("pid") and line.endswith(f"rank {rank}"))
        line = next(known, None)
        while line is None or not line.endswith(f"rank {rank}"):
            line = self.wait_for("pid")
        return int(line.split()[1])


@contextmanager
def started(folder: Path, *changes: str, processes: int = 1) -> Iterator[Run]:
    command = [sys.executable, *(TORCHRUN if processes > 1 else []), SCRIPT, str(folder), *changes]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield Run(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        assert process.stdout is not None
        process.stdout.close()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "weights.pt")
    return found


def finish(folder: Path, *changes: str, processes: int = 1) -> str:
    """Run to the end; return from where it went on."""
    with started(folder, *changes, "wait=0", processes=processes) as run:
        assert run.end() == 0, run.lines
    return next(line for line in run.lines if line.startswith("resumed"))


def assert_equal_to_whole(tmp_path: Path, *changes: str, processes: int = 1) -> None:
    finish(tmp_path / "whole", *changes, processes=processes)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_group_that_is_told_to_stop_with_its_loader_workers_goes_on(tmp_path: Path) -> None:
    changes = ("dataloader_num_workers=2",)
    with started(tmp_path / "cut", *changes, "wait=0.05") as run:
        run.wait_for("step 5")
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 143, run.lines
    assert finish(tmp_path / "cut", *changes) != "resumed 0"
    assert_equal_to_whole(tmp_path, *changes)


def test_an_evaluation_stops_within_one_batch(tmp_path: Path) -> None:
    changes = ('eval_strategy="steps"', "eval_steps=5")
    with started(tmp_path / "cut", *changes, "wait=0.3") as run:
        run.wait_for("evaluating")
        run.process.send_signal(signal.SIGUSR1)
        assert run.end() == 138, run.lines
    assert run.lines.count("evaluating") <= 3
    assert json.loads((tmp_path / "cut/checkpoint-5/data.json").read_text())["unfinished"]["evaluate"]
    assert finish(tmp_path / "cut", *changes) == "resumed 5"
    assert_equal_to_whole(tmp_path, *changes)


@pytest.mark.parametrize("told", ["a rank", "torchrun"])
def test_two_processes_stop_after_one_step_and_go_on(tmp_path: Path, told: str) -> None:
    with started(tmp_path / "cut", "wait=0.3", "num_train_epochs=20", processes=2) as run:
        pid = run.pid_of(1) if told == "a rank" else run.process.pid
        run.wait_for("step 3")
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert run.end() != 0
    assert time.monotonic() - began < 60
    assert finish(tmp_path / "cut", "num_train_epochs=20", processes=2) != "resumed 0"
    assert_equal_to_whole(tmp_path, "num_train_epochs=20", processes=2)


def test_two_processes_leave_an_evaluation_together(tmp_path: Path) -> None:
    changes = ('eval_strategy="steps"', "eval_steps=4")
    with started(tmp_path / "cut", *changes, "wait=0.4", processes=2) as run:
        pid = run.pid_of(1)
        run.wait_for("evaluating")
        os.kill(pid, signal.SIGTERM)
        assert run.end() != 0
    assert json.loads((tmp_path / "cut/checkpoint-4/data.json").read_text())["unfinished"]["evaluate"]
    assert finish(tmp_path / "cut", *changes, processes=2) == "resumed 4"
    assert_equal_to_whole(tmp_path, *changes, processes=2)
