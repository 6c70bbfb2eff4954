"""A run that is cut goes on with other batches, other processes, other workers: no sample twice, none left out."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launch import launch
from tests.reliability.shapes import NUM_SAMPLES, Ids, ids_of, repeated_and_missing, train

SHAPES: dict[str, dict[str, Any]] = {
    "smaller batches": {"per_device_train_batch_size": 3},
    "larger batches": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1},
    "longer steps": {"gradient_accumulation_steps": 5},
    "workers": {"dataloader_num_workers": 2},
}
ORDERS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "grouped by length": {"group_by_length": True},
    "drawn by torch's sampler": {"accelerator_config": {"use_seedable_sampler": False}},
}


def in_three_parts(folder: Path, first: dict[str, Any], then: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """Run until a step, two steps on with another shape, and the rest with that shape again."""
    return [
        train(folder, until=at, **first),
        train(folder, until=at + 2, resume=True, **then),
        train(folder, resume=True, **then),
    ]


@pytest.mark.parametrize("at", [3, 7])  # inside an epoch and at its end
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ORDERS)
def test_every_sample_is_trained_on_once_an_epoch(tmp_path: Path, order: str, shape: str, at: int) -> None:
    parts = in_three_parts(tmp_path, ORDERS[order], {**ORDERS[order], **SHAPES[shape]}, at)
    seen = [sample for part in parts for sample in part["seen"]]
    assert len(seen) == 2 * NUM_SAMPLES
    assert repeated_and_missing(seen[:NUM_SAMPLES]) == repeated_and_missing(seen[NUM_SAMPLES:]) == (0, 0)
    assert (parts[2]["step"], parts[2]["epoch"]) == (parts[1]["max_steps"], 2.0)


@pytest.mark.parametrize("kind", ["linear", "cosine", "cosine_with_min_lr"])
@pytest.mark.parametrize("shape", ["smaller batches", "larger batches", "longer steps"])
def test_the_rate_is_continuous_and_ends_with_the_run(tmp_path: Path, shape: str, kind: str) -> None:
    options: dict[str, Any] = {"lr_scheduler_type": kind, "warmup_steps": 2}
    if kind == "cosine_with_min_lr":
        options["lr_scheduler_kwargs"] = {"min_lr": 0.001}
    whole = train(tmp_path / "whole", **options)
    parts = in_three_parts(tmp_path / "cut", options, {**options, **SHAPES[shape]}, at=5)
    rates = [rate for part in parts for rate in part["rates"]]
    assert rates[:5] == whole["rates"][:5]
    assert rates[-1] == whole["rates"][-1]
    ratio = (whole["max_steps"] - 5) / (parts[1]["max_steps"] - 5)
    largest = max(abs(after - before) for before, after in pairwise(whole["rates"][2:]))
    assert max(abs(after - before) for before, after in pairwise(rates[4:])) <= max(ratio, 1) * largest * 1.001


@pytest.mark.parametrize(("shape", "end"), [("smaller batches", 5 + 3 + 9), ("larger batches", 5 + 1 + 4)])
def test_a_run_ends_after_the_updates_that_remain(tmp_path: Path, shape: str, end: int) -> None:
    train(tmp_path, until=5)  # 13 samples of the epoch are left
    ended = train(tmp_path, resume=True, **SHAPES[shape])
    assert (ended["step"], ended["max_steps"]) == (end, end)


def test_a_number_of_steps_that_was_asked_for_stays_whatever_the_epochs_become(tmp_path: Path) -> None:
    train(tmp_path, until=8, max_steps=30, per_device_train_batch_size=27, gradient_accumulation_steps=2)
    second = train(tmp_path, until=20, resume=True, max_steps=30)
    third = train(tmp_path, resume=True, max_steps=30)
    assert (second["max_steps"], third["step"]) == (30, 30)
    assert third["epoch"] == pytest.approx(8 + 22 / 7, abs=0.3)  # 8 epochs of one step, then 7 steps an epoch


def test_one_line_says_what_changed_and_what_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, until=5)
    with caplog.at_level(logging.WARNING, "hftrain"):
        train(tmp_path, resume=True, per_device_train_batch_size=3, dataloader_num_workers=1)
    lines = [record.getMessage() for record in caplog.records if "Resumed" in record.getMessage()]
    assert lines == [
        "Resumed with changed settings: batch_size 4 -> 3, num_workers 0 -> 1. After step 5 the run goes on behind 40 "
        "samples of epoch 0 and ends at step 17 instead of 14, and the learning rate goes on from where it is and ends "
        "there too."
    ]


def test_other_data_are_another_order_and_the_run_ends_where_they_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, until=5)
    ended = train(tmp_path, resume=True, data=Ids(80))
    assert ended["step"] == 5 + 5 + 10
    assert "num_samples 53 -> 80" in caplog.text
    assert "another order now, so samples repeat or are left out" in caplog.text


# ---- processes --------------------------------------------------------------------------------------


def train_here(folder: str, until: int | None, resume: bool, changes: dict[str, Any]) -> dict[str, Any]:
    return train(folder, until=until, resume=resume, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_one_process_becomes_two_and_one_again(tmp_path: Path, order: str) -> None:
    changes = ORDERS[order]
    first = train(tmp_path, until=3, **changes)  # 24 of 53
    both = launch(train_here, str(tmp_path), 5, True, changes)  # 29 left: 16 and 13, evened by 3
    third = train(tmp_path, until=8, resume=True, **changes)  # 24 of 53
    again = launch(train_here, str(tmp_path), None, True, changes)
    epoch_0 = first["seen"] + both[0]["seen"] + both[1]["seen"]
    epoch_1 = third["seen"] + again[0]["seen"] + again[1]["seen"]
    assert repeated_and_missing(epoch_0) == repeated_and_missing(epoch_1) == (3, 0)
    assert again[0]["step"] == again[0]["max_steps"] == 3 + 2 + 3 + 2
    rates = [rate for part in (first, both[0], third, again[0]) for rate in part["rates"]]
    assert rates[-1] == 0
    assert sorted(rates, reverse=True) == rates
    assert both[0]["random"] != both[1]["random"]


# ---- loaders of the user ----------------------------------------------------------------------------


def test_a_loader_of_the_user_goes_on_at_a_whole_batch_of_the_new_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def loader(batch_size: int) -> Any:
        return torch.utils.data.DataLoader(Ids(), batch_size=batch_size, collate_fn=ids_of)  # type: ignore[arg-type]

    one_batch: dict[str, Any] = {"gradient_accumulation_steps": 1, "num_train_epochs": 1}
    first = train(tmp_path, until=5, loader=loader(4), **one_batch)
    then = train(tmp_path, resume=True, loader=loader(8), per_device_train_batch_size=8, **one_batch)
    assert first["seen"] + then["seen"] == [*range(20), *range(16, NUM_SAMPLES)]
    assert then["step"] == then["max_steps"] == 5 + 5
    assert "starts at whole batches only, so 4 samples are trained on again" in caplog.text
