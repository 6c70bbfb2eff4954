"""The GPT example, shortened; killed in the middle, it goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from examples.stdlib_gpt import PADDING, StandardLibrary, StdlibGPT, Windows, main
from hftrain.checkpoint.layout import INCOMPLETE, MANIFEST

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--steps", "12", "--save-steps", "4", "--held-out", "2"]


@pytest.mark.slow
def test_a_short_run_learns_something_and_compares_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bits_per_byte = main(["--output-dir", str(tmp_path), *SHORT])
    printed = capsys.readouterr().out
    assert 0 < bits_per_byte < 6  # 8 before the first step
    assert f"this GPT {bits_per_byte:.3f}" in printed
    assert "gzip -9" in printed
    assert "xz -9" in printed
    assert "resumed" not in printed


@pytest.mark.slow
def test_after_a_kill_the_same_command_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole)
    killed = start(cut)
    wait_for_commit(cut / "checkpoint-4", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "this GPT" not in killed.communicate()[0]

    printed = run(cut)

    assert f"resumed from {cut}/checkpoint-" in printed
    assert "this GPT" in printed
    weights = [(folder / "checkpoint-12" / "model.safetensors").read_bytes() for folder in (whole, cut)]
    assert weights[0] == weights[1]


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "examples" / "stdlib_gpt.py"), "--output-dir", str(folder), *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def run(folder: Path) -> str:
    process = start(folder)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def wait_for_commit(folder: Path, process: subprocess.Popen[str]) -> None:
    """The manifest is seen before it is whole: the commit ends when the mark, which is there before it, goes."""
    while not (folder / MANIFEST).exists() or (folder / INCOMPLETE).exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def test_every_byte_is_a_target_exactly_once() -> None:
    text = bytes(range(7, 30))
    windows = Windows(text, context=8)
    inputs, targets = zip(*(windows[index] for index in range(len(windows))), strict=True)
    kept = torch.cat(targets)[torch.cat(targets) != PADDING]
    assert bytes(kept.tolist()) == text
    assert bytes(inputs[1].tolist()) == text[7:15]  # each input is the byte before its target


def test_a_later_byte_changes_no_earlier_prediction() -> None:
    task = StdlibGPT(width=16, num_layers=1, num_heads=2, context=8).eval()
    text = torch.tensor([[1, 2, 3, 4, 5]])
    changed = torch.tensor([[1, 2, 3, 4, 99]])
    assert torch.equal(task(text)[:, :4], task(changed)[:, :4])
    assert not torch.equal(task(text)[:, 4], task(changed)[:, 4])


def test_held_out_modules_are_left_out_of_the_training_text() -> None:
    data = StandardLibrary(num_held_out=3, seed=1)
    training_text = data.train_windows.bytes.numpy().tobytes()
    assert data.held_out[:200] not in training_text
    assert data.held_out[-200:] not in training_text
