"""Settings of loaders, and the seeds of their workers."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils.data import DataLoader, Dataset

from hftrain.data.settings import LoaderSettings, RankSeed
from hftrain.errors import DataError


class Draws(Dataset[list[float]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 5, "split_batches": True, "world_size": 2}, "Set batch_size=6, or split_batches=False"),
        ({"persistent_workers": True}, "dataloader_persistent_workers=True needs workers"),
        ({"prefetch_factor": 2}, "dataloader_prefetch_factor=2 needs workers"),
    ],
)
def test_values_that_cannot_be_used_are_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LoaderSettings(**{"batch_size": 4, "seed": 0} | options)


@pytest.mark.parametrize(("device_type", "is_pinned"), [("cpu", False), ("cuda", True), ("mps", False)])
def test_memory_is_pinned_for_cuda_only(device_type: str, is_pinned: bool) -> None:
    settings = LoaderSettings(batch_size=1, seed=0, pin_memory=True, device_type=device_type)
    assert settings.worker_options(training=True)["pin_memory"] is is_pinned


def test_workers_of_all_ranks_draw_differently() -> None:
    draws = []
    for rank in range(2):
        torch.manual_seed(0)
        seeds = RankSeed(rank * 2)
        draws += [row for batch in DataLoader(Draws(), num_workers=2, worker_init_fn=seeds) for row in batch.tolist()]
    assert len({value for row in draws for value in row}) == 3 * len(draws)


def test_one_process_leaves_the_seeds_of_workers_in_evaluation_to_torch() -> None:
    settings = LoaderSettings(batch_size=1, seed=0, num_workers=2)
    assert settings.worker_init(training=False) is None
    assert settings.worker_init(training=True) is not None


@pytest.mark.parametrize("rank", [0, 1])
def test_workers_of_training_draw_what_the_references_workers_draw(rank: int) -> None:
    def drawn(seed_worker: Any) -> list[Any]:
        torch.manual_seed(0)
        return [batch.tolist() for batch in DataLoader(Draws(), num_workers=2, worker_init_fn=seed_worker)]

    assert drawn(RankSeed(rank * 2)) == drawn(partial(transformers.trainer_utils.seed_worker, num_workers=2, rank=rank))
