"""A run killed with SIGKILL and started again by the same command ends where the uninterrupted one does, to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("train_small_task.py")
NUM_STEPS = 30
STEPS_PER_EPOCH = 10
SAVE_STEPS = 3

pytestmark = pytest.mark.slow


def start(output_dir: Path, when: str) -> subprocess.Popen[str]:
    root = SCRIPT.parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(output_dir), when]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=output_dir.parent)


def run_until(
    output_dir: Path, when: str, *, kill_step: int | None = None, delay_s: float = 0.0
) -> tuple[int, list[str]]:
    """Start the script, kill it ``delay_s`` after it went on from ``kill_step``; return its exit code and its lines."""
    with start(output_dir, when) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        lines = []
        for line in map(str.strip, process.stdout):
            if line.startswith("{"):  # a printed log row
                continue
            lines.append(line)
            if line.startswith("step "):
                print(file=process.stdin, flush=True)  # go on
            if line == f"step {kill_step}":
                time.sleep(delay_s)
                process.kill()
                break
        return process.wait(), lines


def seeded_instants(seed: int) -> list[tuple[int, float]]:
    """Three rising steps inside an epoch each, and a delay: the second falls into the writing of a checkpoint."""
    choose = random.Random(seed)
    first, third = choose.randint(4, 8), choose.randint(24, 28)
    while_saving = choose.choice([12, 15, 18])
    return [
        (first, choose.uniform(0, 0.03)),
        (while_saving, choose.uniform(0, 0.015)),
        (third, choose.uniform(0, 0.03)),
    ]


def final_files(output_dir: Path) -> dict[str, bytes]:
    folder = output_dir / f"checkpoint-{NUM_STEPS}"
    names = ["model.safetensors", "optimizer.safetensors", "optimizer.json", "scheduler.json", "rng-0.safetensors"]
    return {name: (folder / name).read_bytes() for name in names}


def logged_steps(output_dir: Path) -> list[dict[str, Any]]:
    state = json.loads((output_dir / f"checkpoint-{NUM_STEPS}" / "trainer_state.json").read_text())
    return [row for row in state["log_history"] if "loss" in row]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    code, lines = run_until(output_dir, "now")
    assert code == 0
    assert lines == ["resumed 0", *(f"step {step}" for step in range(1, NUM_STEPS + 1)), "done"]
    return output_dir


@pytest.mark.parametrize(("seed", "when"), [(0, "now"), (1, "now"), (1, "later"), (2, "later")])
def test_killed_runs_end_bitwise_where_the_uninterrupted_one_does(
    seed: int, when: str, uninterrupted: Path, tmp_path: Path
) -> None:
    output_dir = tmp_path / "run"
    committed_before_kill = 0
    for kill_step, delay_s in seeded_instants(seed):
        assert kill_step % STEPS_PER_EPOCH
        code, lines = run_until(output_dir, when, kill_step=kill_step, delay_s=delay_s)
        assert code == -signal.SIGKILL
        assert int(lines[0].removeprefix("resumed ")) >= committed_before_kill
        committed_before_kill = (kill_step - 1) // SAVE_STEPS * SAVE_STEPS
        if when == "later":  # the last one may have been under way; the one before was waited for
            committed_before_kill = max(0, committed_before_kill - SAVE_STEPS)

    code, lines = run_until(output_dir, when)
    assert code == 0
    assert int(lines[0].removeprefix("resumed ")) >= committed_before_kill
    assert lines[-1] == "done"
    assert final_files(output_dir) == final_files(uninterrupted)
    assert logged_steps(output_dir) == logged_steps(uninterrupted)


def test_the_command_of_a_finished_run_trains_no_further(uninterrupted: Path) -> None:
    before = final_files(uninterrupted)
    code, lines = run_until(uninterrupted, "now")
    assert (code, lines) == (0, [f"resumed {NUM_STEPS}", "done"])
    assert final_files(uninterrupted) == before
