"""Where a run that another trainer began stands in the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hftrain import DataModule
from hftrain.checkpoint.foreign import open_any
from hftrain.core.position import Position
from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import train_loader
from hftrain.data.settings import LoaderSettings
from hftrain.trainer.resuming import position_after, state_from
from tests.trainer.tasks import Fit, Points, trainer, weights


def source(num_samples: int = 60, batch_size: int = 8) -> EpochLoader:
    return EpochLoader(train_loader(Points(num_samples), LoaderSettings(batch_size=batch_size, seed=0)))


@pytest.mark.parametrize(
    ("steps", "accumulation", "expected"),
    [
        (0, 1, (0, 0, 0)),
        (3, 1, (0, 3, 24)),
        (8, 1, (1, 0, 0)),
        (15, 1, (1, 7, 56)),
        (2, 3, (0, 6, 48)),
        (3, 3, (1, 0, 0)),
        (5, 20, (5, 0, 0)),
    ],
)
def test_steps_are_counted_through_epochs(steps: int, accumulation: int, expected: tuple[int, int, int]) -> None:
    found = position_after(steps, source(), accumulation_steps=accumulation, batch_size=8, batch_size_then=8)
    assert found == Position(epoch=expected[0], batches=expected[1], samples=expected[2])


@pytest.mark.parametrize(("steps", "samples"), [(3, 12), (15, 0), (16, 4)])
def test_the_samples_of_batches_of_another_size_are_counted(steps: int, samples: int) -> None:
    found = position_after(steps, source(), accumulation_steps=1, batch_size=8, batch_size_then=4)
    assert (found.epoch, found.samples) == (steps // 15, samples)


def test_fields_that_a_later_reference_adds_are_left_out() -> None:
    assert state_from({"global_step": 3, "epoch": 0.5, "newer": [1]}).epoch == 0.5


def test_an_epoch_whose_last_batch_was_left_out_is_over_after_the_full_ones() -> None:
    found = position_after(7, source(), accumulation_steps=1, batch_size=8, batch_size_then=16, drop_last=True)
    assert (found.epoch, found.samples) == (2, 16)  # 60 samples are 3 batches of 16


def test_data_without_a_length_is_one_epoch() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from range(5)

    loader = EpochLoader(DataLoader(Stream(), batch_size=None))
    found = position_after(7, loader, accumulation_steps=2, batch_size=1, batch_size_then=None)
    assert (found.epoch, found.batches) == (0, 14)


def as_the_references(folder: Path) -> Path:
    """Turn a checkpoint of ours into one as the reference writes it."""
    from hftrain.checkpoint.contents import tree_of

    reader = open_any(str(folder))
    saved = tree_of(reader.part("optimizer"))
    index = {name: number for number, name in enumerate(n for g in saved["param_groups"] for n in g["params"])}
    groups = [{**group, "params": [index[name] for name in group["params"]]} for group in saved["param_groups"]]
    state = {index[name]: value for name, value in saved["state"].items()}
    torch.save({"state": state, "param_groups": groups}, folder / "optimizer.pt")
    torch.save(tree_of(reader.part("scheduler")), folder / "scheduler.pt")
    for name in ("optimizer", "scheduler", "data", "run", "task", "rng-0", "MANIFEST", "training_args"):
        (folder / f"{name}.json").unlink()
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    return folder


class Still(Fit):
    """The same without dropout: a reference's folder made here has no random state."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)


def begun(folder: Path) -> Path:
    """A run of 16 steps of 8 samples, cut at step 6, with a checkpoint of the reference."""
    trainer(folder, Still, save_strategy="steps", save_steps=6).train()
    for step in (12, 16):
        (folder / f"checkpoint-{step}/MANIFEST.json").rename(folder / f"checkpoint-{step}/.incomplete")
    return as_the_references(folder / "checkpoint-6")


def test_the_references_checkpoint_in_output_dir_is_found_and_goes_on_to_the_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trainer(tmp_path / "whole", Still)
    whole.train()
    begun(tmp_path / "cut")
    resumed = trainer(tmp_path / "cut", Still)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.state.global_step == 16
    assert "cannot be verified" in caplog.text


def test_no_sample_is_seen_twice_with_another_batch_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = begun(tmp_path)
    data = Points()
    ours = trainer(tmp_path, Still, data=DataModule(train=data), per_device_train_batch_size=4, num_train_epochs=1)
    ours.train(resume_from_checkpoint=str(path))
    assert len(set(data.fetched)) == len(data.fetched) == 64 - 6 * 8
    assert "per_device_train_batch_size: 4 (from args) != 8" in caplog.text


def test_retention_leaves_it_alone(tmp_path: Path) -> None:
    path = begun(tmp_path)
    ours = trainer(tmp_path, Still, save_strategy="steps", save_steps=1, save_total_limit=1)
    ours.train(resume_from_checkpoint=str(path))
    assert sorted(it.name for it in tmp_path.glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-6"]
