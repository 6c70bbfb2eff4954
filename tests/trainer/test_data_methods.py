"""Where the Trainer's batches come from: order, columns, lengths, and the loaders that subclasses see."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from datasets import Dataset as Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

import hftrain
from hftrain.data.settings import LoaderSettings
from hftrain.errors import ConfigurationError, DataError

LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6]


class Rows(Dataset[dict[str, Any]]):
    """Rows of unequal length whose first entry is their index."""

    def __init__(self, lengths: list[int] = LENGTHS) -> None:
        self.rows = [[index] * length for index, length in enumerate(lengths)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.rows[index], "labels": float(index), "note": "unused"}


class Recorder(nn.Module):
    """Notes which rows its batches hold, and which keys."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.dropout = nn.Linear(1, 1), nn.Dropout(0.5)
        self.seen: list[list[int]] = []
        self.keys: set[str] = set()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.seen.append(input_ids[:, 0].int().tolist())
        outputs = self.head(self.dropout(input_ids[:, :1].float()))[:, 0]
        return {"loss": (outputs - labels).square().mean(), "logits": outputs}


class Padding:
    """Pads rows with zeros; picklable, for workers."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        self.keys |= rows[0].keys()
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [[*row["input_ids"], *[0] * (longest - len(row["input_ids"]))] for row in rows]
        labels = [row.get("labels", 0.0) for row in rows]
        return {"input_ids": torch.tensor(padded), "labels": torch.tensor(labels)}


def arguments(kind: Any, folder: Path, **changes: Any) -> Any:
    defaults = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 4, "num_train_epochs": 2}
    fixed = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    return kind(str(folder), **(defaults | fixed | changes))


def trainer(folder: Path, data: Any = None, *, kind: type[hftrain.Trainer] = hftrain.Trainer, **changes: Any) -> Any:
    made = arguments(hftrain.TrainingArguments, folder, **changes)
    data = Rows() if data is None else data
    return kind(model=Recorder(), args=made, train_dataset=data, eval_dataset=data, data_collator=Padding())


def reference(folder: Path, **changes: Any) -> Any:
    made = arguments(transformers.TrainingArguments, folder, **changes)
    data = Rows()
    return transformers.Trainer(Recorder(), made, train_dataset=data, eval_dataset=data, data_collator=Padding())


NOT_SEEDABLE = {"accelerator_config": {"use_seedable_sampler": False}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        NOT_SEEDABLE,
        {"data_seed": 5},
        {"group_by_length": True},
        {"group_by_length": True, "gradient_accumulation_steps": 2, "seed": 1, **NOT_SEEDABLE},
        {"group_by_length": True, "eval_strategy": "epoch"},
        {"dataloader_drop_last": True, "eval_strategy": "epoch"},
        {"max_steps": 9, "group_by_length": True},
    ],
    ids=str,
)
def test_samples_come_in_the_references_order_beside_a_model_that_draws(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    ours, theirs = trainer(tmp_path, **changes), reference(tmp_path, **changes)
    states = []
    for one in (theirs, ours):
        transformers.set_seed(one.args.seed)
        one.train()
        states.append(torch.get_rng_state())
    assert ours.model.seen == theirs.model.seen
    assert states[0].equal(states[1])


def test_predictions_of_grouped_samples_come_in_the_references_order_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = []
    for one in (reference(tmp_path, group_by_length=True), trainer(tmp_path, group_by_length=True)):
        transformers.set_seed(0)
        labels.append(one.predict(Rows()).label_ids.tolist())
    assert labels[0] == labels[1] != sorted(labels[0])
    assert "predictions and labels come in that order" in caplog.text


@pytest.mark.parametrize("column", ["length", "width"])
def test_grouping_uses_the_column_of_lengths_that_is_named(tmp_path: Path, column: str) -> None:
    rows = [dict(row, length=len(row["input_ids"]), width=-len(row["input_ids"])) for row in Rows()]
    ours = trainer(tmp_path, Table.from_list(rows), group_by_length=True, length_column_name=column, max_steps=1)
    ours.train()
    first = len(Rows()[ours.model.seen[0][0]]["input_ids"])
    assert first == (max(LENGTHS) if column == "length" else min(LENGTHS))


def test_a_sortish_sampler_groups_the_training_samples_only(tmp_path: Path) -> None:
    made = arguments(hftrain.Seq2SeqTrainingArguments, tmp_path, sortish_sampler=True)
    ours = hftrain.Trainer(Recorder(), made, train_dataset=Rows(), eval_dataset=Rows(), data_collator=Padding())
    assert len(Rows()[next(iter(ours._get_train_sampler()))]["input_ids"]) == max(LENGTHS)
    assert isinstance(ours._get_eval_sampler(Rows()), SequentialSampler)


@pytest.mark.parametrize("order", [{"group_by_length": True}, NOT_SEEDABLE], ids=str)
@pytest.mark.parametrize("step", [4, 7], ids=["in an epoch", "between epochs"])
def test_a_resumed_run_whose_order_is_drawn_goes_on_with_the_samples_left(
    tmp_path: Path, order: dict[str, Any], step: int
) -> None:
    changes = {**order, "save_strategy": "steps", "save_steps": step, "max_steps": 10}
    whole = trainer(tmp_path / "a", **changes)
    whole.train()
    torch.rand(7)  # a resumed script need not have drawn the same numbers before
    resumed = trainer(tmp_path / "b", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{step}"))
    assert resumed.model.seen == whole.model.seen[step:]
    assert resumed.model.head.weight.equal(whole.model.head.weight)


def test_a_resume_at_another_batch_size_repeats_no_grouped_sample(tmp_path: Path) -> None:
    changes = {"group_by_length": True, "save_strategy": "steps", "save_steps": 4, "num_train_epochs": 1}
    first = trainer(tmp_path / "a", **changes)
    first.train()
    resumed = trainer(tmp_path / "b", per_device_train_batch_size=2, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    seen = first.model.seen[:4] + resumed.model.seen
    assert sorted(index for batch in seen for index in batch) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("data", [Rows(), Table.from_list(list(Rows()))], ids=["samples", "table"])
@pytest.mark.parametrize("removes", [True, False])
def test_the_collator_sees_what_the_model_takes(tmp_path: Path, data: Any, removes: bool) -> None:
    ours = trainer(tmp_path, data, remove_unused_columns=removes, max_steps=1)
    ours.train()
    assert ours.data_collator.keys == {"input_ids", "labels"} | (set() if removes else {"note"})


class KeepsNotes(hftrain.Trainer):
    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "note"]


@pytest.mark.parametrize("data", [Rows(), Table.from_list(list(Rows()))], ids=["samples", "table"])
def test_a_subclass_says_which_columns_stay(tmp_path: Path, data: Any) -> None:
    ours = trainer(tmp_path, data, kind=KeepsNotes, max_steps=1)
    ours.train()
    assert ours.data_collator.keys == {"input_ids", "note"}


def test_adapters_keep_the_columns_of_the_model_that_they_adapt(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], task_type="SEQ_CLS"))
    made = arguments(hftrain.TrainingArguments, tmp_path)
    ours = hftrain.Trainer(adapted, made, train_dataset=Rows())
    theirs = transformers.Trainer(adapted, arguments(transformers.TrainingArguments, tmp_path), train_dataset=Rows())
    for one in (ours, theirs):
        one._set_signature_columns_if_needed()
    assert sorted(set(ours._signature_columns)) == sorted(set(theirs._signature_columns))
    assert "token_type_ids" in ours._signature_columns


class Reversed(hftrain.Trainer):
    """Reads training data backwards and evaluation data from the middle."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return range(len(train_dataset) - 1, -1, -1)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return [10, 0, 20]


def test_a_subclass_gives_the_order_of_training_and_evaluation(tmp_path: Path) -> None:
    ours = trainer(tmp_path, kind=Reversed, max_steps=1)
    ours.train()
    assert ours.predict(Rows()).label_ids.tolist() == [10.0, 0.0, 20.0]
    assert ours.model.seen == [[20, 19, 18], [10, 0, 20]]


class OwnLoader(hftrain.Trainer):
    """Its loader is a list of batches."""

    def get_train_dataloader(self) -> Any:
        return [Padding()([Rows()[index]]) for index in range(4)]


def test_a_loader_without_a_data_set_trains(tmp_path: Path) -> None:
    ours = trainer(tmp_path, kind=OwnLoader)
    ours.train()
    assert ours.model.seen == [[0], [1], [2], [3]] * 2


def test_loaders_are_torchs_and_have_what_scripts_read(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    for loader, length in (
        (ours.get_train_dataloader(), 7),
        (ours.get_eval_dataloader(), 6),
        (ours.get_test_dataloader(Rows()), 6),
    ):
        assert isinstance(loader, DataLoader)
        assert (len(loader), len(loader.dataset)) == (length, len(LENGTHS))


def test_a_named_evaluation_set_has_its_loader(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.eval_dataset = {"short": Rows([1, 2]), "long": Rows([7, 8, 9])}
    assert len(ours.get_eval_dataloader("long").dataset) == 3
    assert len(ours.get_eval_dataloader(Rows([1])).dataset) == 1
    with pytest.raises(ConfigurationError, match="eval_dataset='other' is not one of the evaluation sets: short, long"):
        ours.get_eval_dataloader("other")


class Stream(IterableDataset[dict[str, Any]]):
    """Says its epochs, or draws from a generator."""

    def __init__(self, *, by_generator: bool) -> None:
        self.epochs: list[int] = []
        if by_generator:
            self.generator = torch.Generator()
        else:
            self.set_epoch = self.epochs.append

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = torch.randperm(6, generator=self.generator) if hasattr(self, "generator") else torch.arange(6)
        return (Rows([1] * 6)[index] for index in order.tolist())


def test_an_iterable_set_hears_of_its_epochs(tmp_path: Path) -> None:
    stream = Stream(by_generator=False)
    trainer(tmp_path, stream, max_steps=5).train()
    assert list(dict.fromkeys(stream.epochs)) == [0, 1, 2]


def test_an_iterable_set_with_a_generator_has_an_order_for_each_epoch(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        ours = trainer(tmp_path, Stream(by_generator=True), max_steps=4, seed=3)
        ours.train()
        seen.append(ours.model.seen)
    assert seen[0] == seen[1]
    assert seen[0][:2] != seen[0][2:]


class Unsized:
    """A loader that has neither data set nor length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def test_examples_are_counted_in_the_data_set_or_estimated(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    assert ours.num_examples(ours.get_train_dataloader()) == len(LENGTHS)
    assert ours.num_examples(DataLoader(Rows(), batch_size=2)) == len(LENGTHS)
    assert ours.num_examples([1, 2, 3]) == 9
    with pytest.raises(TypeError):
        ours.num_examples(Unsized())


def test_persistent_workers_of_evaluation_serve_every_evaluation_of_a_run(tmp_path: Path) -> None:
    how = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    ours, other = trainer(tmp_path, **how), Rows([1, 2])
    loader = ours.get_eval_dataloader()
    assert ours.get_eval_dataloader() is loader
    assert ours.get_eval_dataloader(other) is not loader
    ours.args.per_device_eval_batch_size = 2
    assert ours.get_eval_dataloader().batch_sampler.batch_size == 2


@pytest.mark.parametrize("method", ["get_train_dataloader", "get_eval_dataloader"])
def test_data_that_is_missing_is_an_error(tmp_path: Path, method: str) -> None:
    ours = trainer(tmp_path)
    ours.train_dataset = ours.eval_dataset = None
    with pytest.raises(ConfigurationError, match="Trainer: (training|evaluation) requires an? (train|eval)_dataset"):
        getattr(ours, method)()


def test_samples_that_cannot_be_grouped_are_an_error(tmp_path: Path) -> None:
    ours = trainer(tmp_path, [{"x": 1}], group_by_length=True)
    with pytest.raises(DataError, match="entry 'input_ids'.*length_column_name"):
        ours.train()


def test_lengths_are_those_of_what_the_tokenizer_makes(tmp_path: Path) -> None:
    class Speech:
        model_input_names = ("input_values",)

        def save_pretrained(self, folder: str) -> None: ...

    made = arguments(hftrain.TrainingArguments, tmp_path, group_by_length=True)
    data = [{"input_values": [0.0] * length} for length in (1, 3, 2)]
    ours = hftrain.Trainer(Recorder(), made, train_dataset=data, processing_class=Speech())
    assert ours._get_train_sampler().lengths.tolist() == [1, 3, 2]


@pytest.mark.parametrize("key", ["split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler"])
def test_a_key_of_accelerator_config_reaches_the_loaders(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[LoaderSettings] = []
    value = not getattr(hftrain.TrainingArguments(str(tmp_path)).accelerator_config, key)
    monkeypatch.setattr("hftrain.trainer.data_methods.train_loader", lambda data, how, **rest: told.append(how))
    trainer(tmp_path, accelerator_config={key: value}).get_train_dataloader()
    assert getattr(told[0], key) is value


@pytest.fixture(autouse=True)
def _log_of_hftrain(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="hftrain")
