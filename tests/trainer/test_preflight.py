"""A run whose checkpoints cannot be written ends before its first step, and says what to set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain import Trainer
from hftrain.checkpoint.ranks import StorageRefusedError
from hftrain.errors import ConfigurationError
from hftrain.trainer import preflight
from tests.checkpoint.full import small_disk
from tests.trainer.tasks import Points, arguments


class Large(nn.Module):
    """100 kB of weights, which AdamW triples; ``steps`` counts what was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 6250))
        self.steps = 0

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self.steps += 1
        return {"loss": ((x @ self.weight).sum(1) - y).square().mean()}


def run(folder: Path, **changes: Any) -> Trainer:
    settings = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1, **changes}
    ours = Trainer(Large(), arguments(folder, **settings), train_dataset=Points())
    ours.train()
    return ours


def refused(folder: Path, **changes: Any) -> str:
    settings = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1, **changes}
    ours = Trainer(Large(), arguments(folder, **settings), train_dataset=Points())
    with pytest.raises(ConfigurationError) as caught:
        ours.train()
    assert ours.model.steps == 0
    return str(caught.value)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say how many bytes are free."""
    return lambda count: monkeypatch.setattr(preflight, "free_bytes", lambda folder: count)


def test_less_space_than_a_checkpoint_takes_is_refused_with_the_figures_and_what_to_set(
    tmp_path: Path, free: Any
) -> None:
    free(300_000)
    text = refused(tmp_path)
    assert "300.0 kB are free, and one checkpoint of this run takes 300.0 kB (model 100.0 kB, optimizer 200.0" in text
    for advice in ("set output_dir", "save_only_model=True", "save_strategy='no'"):
        assert advice in text


def test_a_tenth_more_than_a_checkpoint_takes_is_enough(tmp_path: Path, free: Any) -> None:
    free(330_005)  # AdamW counts its steps in four bytes
    assert run(tmp_path).state.global_step == 8
    free(330_000)
    refused(tmp_path)


def test_a_model_alone_takes_less(tmp_path: Path, free: Any) -> None:
    free(110_001)
    run(tmp_path, save_only_model=True)
    free(109_000)
    assert "(model 100.0 kB)" in refused(tmp_path, save_only_model=True)


def test_an_optimizer_that_keeps_nothing_takes_nothing(tmp_path: Path, free: Any) -> None:
    free(111_000)
    run(tmp_path, optim="sgd")


def test_a_run_that_saves_nothing_needs_no_space(tmp_path: Path, free: Any) -> None:
    free(0)
    run(tmp_path, save_strategy="no")
    refused(tmp_path, save_strategy="no", save_minutes=5)


def test_where_nothing_tells_how_much_is_free_the_run_goes_on(tmp_path: Path) -> None:
    ours = Trainer(Large(), arguments("memory://preflight", save_strategy="epoch"), train_dataset=Points())
    ours.train()


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", num_bytes=200_704) as disk:
        assert "200.7 kB are free" in refused(disk)
        assert list(disk.rglob("*")) == []


def test_a_full_disk_is_refused_before_anything_is_counted(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", num_bytes=8192) as disk:
        (disk / "rest").write_bytes(bytes(8192))
        assert "cannot be written: OSError: [Errno 28]" in refused(disk)
        assert [path.name for path in disk.iterdir()] == ["rest"]


def test_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", num_bytes=1 << 20, options=",ro") as disk:
        text = refused(disk)
    assert "cannot be written: OSError: [Errno 30]" in text
    assert "Set output_dir to a folder that can" in text


def test_what_a_killed_run_left_half_written_counts_as_free(tmp_path: Path, free: Any) -> None:
    run(tmp_path)
    torn = tmp_path / "checkpoint-8"
    (torn / "MANIFEST.json").unlink()
    (torn / ".incomplete").write_text("{}")
    free(100_000)  # with the 300 kB of the torn one it is enough
    assert run(tmp_path, resume_from_checkpoint="auto").state.global_step == 8
    assert (torn / "MANIFEST.json").exists()


def test_an_output_dir_that_cannot_be_looked_through_is_an_error_on_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(storage: Any, folder: str) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(preflight, "scan", broken)
    with pytest.raises(StorageRefusedError, match="Input/output error"):
        run(tmp_path)
