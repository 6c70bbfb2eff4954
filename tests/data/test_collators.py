"""The default collator makes what the reference makes."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hftrain.data.collators import DataCollatorWithPadding, DefaultDataCollator, default_data_collator
from hftrain.errors import DataError
from tests.data.words import word_tokenizer


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


@pytest.mark.parametrize(
    "name",
    ["int label", "float label", "label_ids", "float label_ids", "labels pass", "numpy", "numpy scalars", "dataclass"],
)
def test_batch_of_arrays_equals_the_references(name: str) -> None:
    ours = default_data_collator(CASES[name], return_tensors="np")
    reference = transformers.default_data_collator(CASES[name], return_tensors="np")
    assert list(ours) == list(reference)
    for key, value in reference.items():
        assert ours[key].dtype == value.dtype
        assert np.array_equal(ours[key], value)


def test_other_frameworks_are_refused() -> None:
    with pytest.raises(DataError, match="return_tensors='tf'"):
        default_data_collator([{"x": 1}], return_tensors="tf")


def test_the_collator_object_has_its_framework_once_and_a_call_may_differ() -> None:
    collate = DefaultDataCollator(return_tensors="np")
    assert isinstance(collate([{"x": 1}])["x"], np.ndarray)
    assert isinstance(collate([{"x": 1}], return_tensors="pt")["x"], torch.Tensor)


TEXTS = ("a b c", "d", "e f")


@pytest.mark.parametrize("label", ["label", "label_ids", "labels", None])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pad_to_multiple_of": 4},
        {"padding": "max_length", "max_length": 7},
        {"padding": "longest", "return_tensors": "np"},
    ],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_the_references(label: str | None, options: dict[str, Any], side: str) -> None:
    tokenizer = word_tokenizer(padding_side=side)
    features = [{**tokenizer(text), **({} if label is None else {label: index})} for index, text in enumerate(TEXTS)]
    ours = DataCollatorWithPadding(tokenizer, **options)(features)
    reference = transformers.DataCollatorWithPadding(tokenizer, **options)(features)
    assert (type(ours), list(ours)) == (type(reference), list(reference))
    for key, value in reference.items():
        assert ours[key].dtype == value.dtype
        assert (ours[key] == value).all()


def test_without_padding_features_of_unequal_length_are_the_tokenizers_error() -> None:
    tokenizer = word_tokenizer()
    with pytest.raises(ValueError, match="padding=True"):
        DataCollatorWithPadding(tokenizer, padding=False)([tokenizer(text) for text in TEXTS])


def test_padding_gives_no_advice_to_pad_elsewhere_and_leaves_the_advice_on(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = word_tokenizer()
    DataCollatorWithPadding(tokenizer)([tokenizer(text) for text in TEXTS])
    assert caplog.text == ""
    assert tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] is False


class FeatureExtractor:
    """Pads, and is no tokenizer."""

    def pad(self, features: list[dict[str, Any]], **how: Any) -> dict[str, Any]:
        return {"x": torch.tensor([feature["x"] for feature in features]), "label": torch.ones(len(features))}


def test_a_feature_extractor_pads_too() -> None:
    batch = DataCollatorWithPadding(FeatureExtractor())([{"x": 1}, {"x": 2}])
    assert {key: value.tolist() for key, value in batch.items()} == {"x": [1, 2], "labels": [1.0, 1.0]}
