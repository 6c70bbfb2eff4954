"""Columns that a model's forward does not name are left out."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import transformers
from torch import Tensor, nn
from transformers.trainer_utils import RemoveColumnsCollator

from hftrain.data.columns import PruningCollator, drop_unused, is_table, signature_columns
from hftrain.errors import DataError


class Model(nn.Module):
    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        return input_ids


class Adapter(nn.Module):
    """Wraps a model as PEFT does."""

    def get_base_model(self) -> nn.Module:
        return Model()

    def forward(self, *args: Any, **kwargs: Any) -> None: ...


class Table:
    """A `datasets.Dataset`, as far as columns go."""

    def __init__(self, *column_names: str) -> None:
        self.column_names = list(column_names)

    def remove_columns(self, names: list[str]) -> Table:
        return Table(*(name for name in self.column_names if name not in names))


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `is_table` finds when `datasets` was imported by the one who made the data."""
    module = ModuleType("datasets")
    module.Dataset = Table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_columns_are_the_forwards_parameters_and_the_labels() -> None:
    expected = ["input_ids", "labels", "kwargs", "label", "label_ids", "start"]
    assert signature_columns(Model(), ["labels", "start"]) == expected


def test_an_adapter_is_asked_for_the_model_it_adapts() -> None:
    assert signature_columns(Adapter()) == signature_columns(Model())


def test_columns_equal_the_references_on_a_transformers_model() -> None:
    config = transformers.GPT2Config(n_embd=4, n_head=1, n_layer=1, vocab_size=5)
    model = transformers.GPT2LMHeadModel(config)
    trainer = transformers.Trainer.__new__(transformers.Trainer)
    trainer.model, trainer.label_names, trainer._signature_columns = model, ["labels"], None
    trainer._set_signature_columns_if_needed()
    assert set(signature_columns(model, ["labels"])) == set(trainer._signature_columns)


def test_unused_columns_are_left_out_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hftrain.data.columns"):
        kept = drop_unused(Table("text", "input_ids", "label"), ["input_ids", "label"])
    assert kept.column_names == ["input_ids", "label"]
    assert "['text']" in caplog.text


def test_a_table_without_unused_columns_is_returned_as_it_is() -> None:
    table = Table("input_ids")
    assert drop_unused(table, ["input_ids", "labels"]) is table


def test_a_table_with_no_column_for_the_model_is_an_error() -> None:
    with pytest.raises(DataError, match="columns text, and the model's forward takes input_ids.*remove_unused_columns"):
        drop_unused(Table("text"), ["input_ids"], description="evaluation")


def test_other_data_sets_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"input_ids": 1, "text": "a"}]
    assert drop_unused(rows, ["input_ids"]) is rows
    monkeypatch.delitem(sys.modules, "datasets")
    assert not is_table(Table("x"))


@pytest.mark.parametrize("rows", [[{"input_ids": 1, "text": "a"}], [(1, 2)], [{"input_ids": 1}]])
def test_samples_are_pruned_as_the_reference_does(rows: list[Any]) -> None:
    reference = RemoveColumnsCollator(list, signature_columns=["input_ids"])
    assert PruningCollator(list, columns=["input_ids"])(rows) == reference(rows)


def test_pruned_keys_are_named_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    collate = PruningCollator(list, columns=["input_ids"])
    with caplog.at_level(logging.INFO, logger="hftrain.data.columns"):
        collate([{"input_ids": 1, "text": "a"}])
        collate([{"input_ids": 1, "text": "a"}])
    assert len(caplog.records) == 1
