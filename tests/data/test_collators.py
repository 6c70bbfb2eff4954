"""The default collator makes what the reference makes."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hftrain.data.collators import default_data_collator
from hftrain.errors import DataError


@dataclass
class Features:
    input_ids: list[int]
    label: float


def int_tensor(*values: int) -> torch.Tensor:
    return torch.tensor(values)


CASES: dict[str, list[Any]] = {
    "int label": [{"x": [1, 2], "label": 1}, {"x": [3, 4], "label": 0}],
    "float label": [{"x": [1.0, 2], "label": 1.5}, {"x": [3, 4], "label": 0.0}],
    "bool label": [{"x": True, "label": True}, {"x": False, "label": False}],
    "tensor label": [{"label": torch.tensor(1)}, {"label": torch.tensor(2)}],
    "float tensor label": [{"label": torch.tensor(1.0)}, {"label": torch.tensor(2.0)}],
    "numpy label": [{"label": np.int64(1)}, {"label": np.int64(2)}],
    "first label is int": [{"label": 1}, {"label": 2.5}],
    "label_ids": [{"x": 1, "label_ids": [1, 2]}, {"x": 2, "label_ids": [3, 4]}],
    "float label_ids": [{"label_ids": [1.0, 2]}, {"label_ids": [3, 4]}],
    "tensor label_ids": [{"label_ids": int_tensor(1, 2)}, {"label_ids": int_tensor(3, 4)}],
    "label before label_ids": [{"label": 1, "label_ids": [1]}, {"label": 2, "label_ids": [3]}],
    "label is None": [{"label": None, "label_ids": [1]}, {"label": None, "label_ids": [3]}],
    "labels pass": [{"labels": [1, -100]}, {"labels": [0, 5]}],
    "numpy": [{"x": np.ones((2, 3), np.float32)}, {"x": np.zeros((2, 3), np.float32)}],
    "numpy scalars": [{"x": np.float32(1.5)}, {"x": np.float32(2.5)}],
    "numpy 0-d": [{"x": np.array(1.5)}, {"x": np.array(2.5)}],
    "tensors": [{"x": torch.ones(2, dtype=torch.int8)}, {"x": torch.zeros(2, dtype=torch.int8)}],
    "strings and None": [{"x": 1, "text": "a", "none": None}, {"x": 2, "text": "b", "none": None}],
    "dataclass": [Features([1, 2], 0.5), Features([3, 4], 1.5)],
    "mapping": [UserDict({"x": 1, "label": 0}), UserDict({"x": 2, "label": 1})],
    "one sample": [{"x": [[1, 2], [3, 4]], "label": 0}],
}


@pytest.mark.parametrize("name", list(CASES))
def test_batch_equals_the_references(name: str) -> None:
    ours, reference = default_data_collator(CASES[name]), transformers.default_data_collator(CASES[name])
    assert list(ours) == list(reference)
    for key, value in reference.items():
        assert ours[key].dtype == value.dtype
        assert ours[key].equal(value)


def test_label_ids_as_arrays_have_the_references_type_without_its_warning() -> None:
    batch = default_data_collator([{"label_ids": np.array([1, 2])}, {"label_ids": np.array([3, 4])}])
    assert batch["labels"].equal(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "no features"),
        ([(1, 2)], "sample of type tuple"),
        ([{"x": [1]}, {"x": [1, 2]}], "'x'.*sample 0 has length 1, sample 1 has length 2.*pads"),
        ([{"x": torch.ones(1)}, {"x": torch.ones(2)}], "sample 1 has shape \\(2,\\)"),
        ([{"x": 1}, {"y": 1}], "sample 1 has none"),
    ],
)
def test_features_that_make_no_batch_are_errors(features: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        default_data_collator(features)


def test_other_frameworks_are_refused() -> None:
    with pytest.raises(DataError, match='return_tensors="tf"'):
        default_data_collator([{"x": 1}], return_tensors="tf")
