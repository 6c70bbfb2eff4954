"""Batches for language models are the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hftrain.data.language import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq
from hftrain.errors import DataError
from tests.data.words import word_tokenizer

TEXTS = ("a b c d", "e", "f g h [MASK] i")


def assert_equal(ours: Any, reference: Any) -> None:
    assert set(ours) == set(reference)
    for key, value in reference.items():
        if value is None:
            assert ours[key] is None
        else:
            assert (type(ours[key]), ours[key].dtype) == (type(value), value.dtype)
            assert (ours[key] == value).all()


class Shifts:
    """A model that makes its decoder's inputs of labels."""

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.roll(1, dims=1)


SEQ2SEQ: list[dict[str, Any]] = [
    {},
    {"pad_to_multiple_of": 4},
    {"padding": "max_length", "max_length": 9},
    {"padding": "longest", "label_pad_token_id": 0},
    {"model": Shifts()},
    {"return_tensors": "np"},
]


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays:UserWarning")  # the reference's
@pytest.mark.parametrize("options", SEQ2SEQ, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [list, np.array])
@pytest.mark.parametrize("name", ["labels", "label"])
def test_targets_are_padded_as_the_references(options: dict[str, Any], side: str, make: Any, name: str) -> None:
    tokenizer = word_tokenizer(padding_side=side)
    features = [{**tokenizer(text), name: make(tokenizer(text)["input_ids"][:2] * 2)} for text in TEXTS]
    ours = DataCollatorForSeq2Seq(tokenizer, **options)(features)
    assert_equal(ours, transformers.DataCollatorForSeq2Seq(tokenizer, **options)(features))


@pytest.mark.parametrize("labels", [{}, {"labels": None}])
def test_sources_without_targets_have_the_references_batch(labels: dict[str, None]) -> None:
    tokenizer = word_tokenizer()
    features = [{**tokenizer(text), **labels} for text in TEXTS]
    assert_equal(
        DataCollatorForSeq2Seq(tokenizer, model=Shifts())(features),
        transformers.DataCollatorForSeq2Seq(tokenizer, model=Shifts())(features),
    )


def test_without_padding_equal_targets_are_stacked() -> None:
    tokenizer = word_tokenizer()
    features = [{**tokenizer(text), "labels": [1, 2]} for text in ("a b", "c d")]
    assert_equal(
        DataCollatorForSeq2Seq(tokenizer, padding=False)(features),
        transformers.DataCollatorForSeq2Seq(tokenizer, padding=False)(features),
    )


LANGUAGE: list[dict[str, Any]] = [
    {"mlm": False},
    {"mlm": False, "pad_to_multiple_of": 8},
    {"mlm_probability": 0.5},
    {"mlm_probability": 0.5, "seed": 3},
    {"mlm_probability": 0.9, "mask_replace_prob": 1.0, "random_replace_prob": 0.0},
    {"mlm_probability": 0.9, "mask_replace_prob": 0.0, "random_replace_prob": 1.0},
    {"mlm_probability": 1.0, "mask_replace_prob": 0.5, "random_replace_prob": 0.4},
]


@pytest.mark.parametrize("options", LANGUAGE, ids=str)
@pytest.mark.parametrize("kind", ["dicts", "special tokens given", "lists", "tensors"])
def test_masks_labels_and_draws_are_the_references(options: dict[str, Any], kind: str) -> None:
    tokenizer = word_tokenizer()
    rows = [tokenizer(text, return_special_tokens_mask=kind == "special tokens given") for text in TEXTS]
    as_kind = {"lists": lambda row: row["input_ids"], "tensors": lambda row: torch.tensor(row["input_ids"])}
    features = [as_kind.get(kind, dict)(row) for row in rows]
    batches = []
    for made in (DataCollatorForLanguageModeling, transformers.DataCollatorForLanguageModeling):
        torch.manual_seed(1)
        collate = made(tokenizer, **options)
        batches.append([collate(features), collate(features), {"after": torch.rand(2)}])
    for ours, reference in zip(*batches, strict=True):
        assert_equal(ours, reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlm_probability": 1.5}, "mlm_probability=1.5 is no probability"),
        ({"mlm_probability": None}, "mlm_probability=None is no probability"),
        ({"mask_replace_prob": 0.8, "random_replace_prob": 0.3}, "together more than 1"),
        ({"return_tensors": "tf"}, "return_tensors='tf'"),
    ],
)
def test_values_that_make_no_masks_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataCollatorForLanguageModeling(word_tokenizer(), **options)


def test_a_tokenizer_without_mask_token_cannot_mask() -> None:
    tokenizer = word_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(DataError, match="Set mlm=False for a causal"):
        DataCollatorForLanguageModeling(tokenizer)
