from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hftrain.trainer import watching
from hftrain.trainer.watching import write_histograms
from tests.trainer.test_watching import Watches, reported_by


class Largest(TorchDispatchMode):
    """Notes how many elements the largest result of an operation has that is no view of something else."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not func.is_view:
            self.num_elements = max(self.num_elements, made.numel())
        return made


def test_a_large_tensor_is_counted_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PIECE", 100)
    values = torch.linspace(-1.0, 3.0, 1050).view(30, 35)
    with Largest() as largest:
        write_histograms({"weight": values}, str(tmp_path / "h.npz"))
    with np.load(tmp_path / "h.npz") as found:
        counts, edges = found["counts"][0], found["edges"][0]
    assert counts.sum() == 1050
    assert (edges[0], edges[-1]) == (-1.0, 3.0)
    assert largest.num_elements < 200


def test_a_device_without_memory_for_it_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(tensors: Any, path: str) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(watching, "write_histograms", full)
    tracker = Watches(["gradients", "parameters"])
    run = reported_by(tmp_path, tracker, max_steps=200)
    run.train()
    assert run.state.global_step == 200
    assert tracker.rows == []
    assert [one.message.count("not watched any more") for one in caplog.records if "watched" in one.message] == [1]
