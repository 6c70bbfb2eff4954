"""Under torchrun, each rank trains and evaluates on the samples that transformers' rank does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import IterableDataset

from tests.distributed.launch import launch

pytestmark = pytest.mark.slow

RUNS: dict[str, dict[str, Any]] = {
    "dispatched": {"accelerator_config": {"dispatch_batches": True}},
    "dispatched and split": {
        "accelerator_config": {"dispatch_batches": True, "split_batches": True},
        "per_device_train_batch_size": 4,
    },
    "stream": {"max_steps": 6, "per_device_train_batch_size": 2},
}


class Stream(IterableDataset[dict[str, Any]]):
    """Ten rows; only its reader knows that it was read."""

    def __init__(self) -> None:
        self.times_read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.times_read += 1
        return ({"input_ids": [index], "labels": float(index)} for index in range(10))


def train_both() -> list[Any]:
    """Return where the two differ on this rank, and whether this rank read the stream."""
    import torch
    import transformers

    import hftrain
    from tests.trainer.test_data_methods import Padding, Recorder, Rows, arguments

    differ, reads = [], 0
    for name, changes in RUNS.items():
        seen = []
        for library in (transformers, hftrain):
            data = Stream() if name == "stream" else Rows([1] * 21)
            with tempfile.TemporaryDirectory() as folder:
                made = arguments(library.TrainingArguments, folder, ddp_backend="gloo", **changes)
                torch.manual_seed(0)
                trainer = library.Trainer(Recorder(), made, train_dataset=data, data_collator=Padding())
                trainer.train()
            seen.append(trainer.model.seen)
            reads += library is hftrain and name == "stream" and data.times_read
        if seen[0] != seen[1]:
            differ.append([name, *seen])
    return [differ, reads]


def test_each_rank_trains_on_the_references_samples_and_only_the_first_reads_a_stream() -> None:
    (first_differs, first_reads), (second_differs, second_reads) = launch(train_both, timeout_s=600)
    assert (first_differs, second_differs) == ([], [])
    assert first_reads > 0 == second_reads
