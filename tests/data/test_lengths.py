"""Orders in which neighbours have similar lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler as ReferenceSampler

from hftrain.data.lengths import LengthGroupedSampler, length_grouped_order, lengths_of
from hftrain.errors import DataError

LENGTHS = np.random.default_rng(0).integers(1, 9, 5000)


@pytest.mark.parametrize("num_samples", [1, 2, 5, 16, 17, 100, 1001, 5000])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 32])
@pytest.mark.parametrize("seed", [None, 7])
def test_order_and_draws_are_the_references(num_samples: int, batch_size: int, seed: int | None) -> None:
    def drawn(kind: Any, lengths: Any) -> tuple[list[list[int]], list[int]]:
        torch.manual_seed(3)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        sampler = kind(batch_size, lengths=lengths, generator=generator)
        return [list(sampler) for _ in range(2)], torch.get_rng_state().tolist()

    lengths = LENGTHS[:num_samples]
    assert drawn(LengthGroupedSampler, lengths) == drawn(ReferenceSampler, lengths.tolist())


def test_fractions_are_lengths_too() -> None:
    torch.manual_seed(0)
    order = length_grouped_order(np.array([0.5, 2.5, 1.5]), 3)
    assert order.tolist() == [1, 2, 0]


TEXTS = [[1] * int(length) for length in LENGTHS[:50]]


@pytest.mark.parametrize("arrange", [lambda data: data, lambda data: data.shuffle(seed=1).select(range(5, 45))])
@pytest.mark.parametrize("column", ["length", "no such column", None])
def test_lengths_of_a_table_are_read_from_its_columns(arrange: Any, column: str | None) -> None:
    data = arrange(Dataset.from_dict({"input_ids": TEXTS, "length": [len(text) + 1 for text in TEXTS]}))
    expected = [len(sample["input_ids"]) + (column == "length") for sample in data]
    assert lengths_of(data, column=column).tolist() == expected


def test_a_column_of_strings_is_measured_by_reading_it() -> None:
    assert lengths_of(Dataset.from_dict({"text": ["a", "abc"]}), key="text").tolist() == [1, 3]


@pytest.mark.parametrize("lengths", [[1, 2], (1, 2), torch.tensor([1, 2]), np.array([1, 2], np.uint8)])
def test_lengths_are_given_as_any_sequence(lengths: Any) -> None:
    assert LengthGroupedSampler(1, lengths=lengths).lengths.tolist() == [1, 2]


def test_lengths_of_dicts_are_those_of_an_entry() -> None:
    data = [{"input_ids": [1], "x": [1, 2]}, {"input_ids": [1, 2], "x": []}]
    assert (lengths_of(data).tolist(), lengths_of(data, key="x").tolist()) == ([1, 2], [2, 0])


@pytest.mark.parametrize(
    ("data", "column", "message"),
    [
        ([{"x": [1]}], None, "entry 'input_ids', and there is a sample with keys x"),
        ([(1, 2)], None, "sample with type tuple"),
        (Dataset.from_dict({"length": ["a"]}), "length", "'length' should hold the length of each sample"),
        (Dataset.from_dict({"length": [1, None]}), "length", "missing or other values"),
    ],
)
def test_samples_without_lengths_are_errors(data: Any, column: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lengths_of(data, column=column)


def test_neither_data_set_nor_lengths_is_an_error() -> None:
    with pytest.raises(DataError, match="neither dataset nor lengths"):
        LengthGroupedSampler(2)
