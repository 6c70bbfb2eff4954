from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain.args.training import TrainingArguments


def with_tokens() -> TrainingArguments:
    args = TrainingArguments("out")
    args.hub_token = args.push_to_hub_token = "secret"
    return args


@dataclass
class Mine(TrainingArguments):
    extra: Any = None


@pytest.mark.parametrize("stored", [repr, str, TrainingArguments.to_json_string, lambda args: repr(args.to_dict())])
def test_no_stored_form_has_a_token(stored: Any) -> None:
    text = stored(with_tokens())
    assert "secret" not in text
    assert "<HUB_TOKEN>" in text


def test_the_repr_that_a_subclass_generates_has_no_token_either() -> None:
    args = Mine("out", extra=3)
    args.hub_token = "secret"
    assert "secret" not in repr(args)
    assert "extra=3" in repr(args)


def test_the_dict_holds_every_argument_in_words_of_json() -> None:
    args = TrainingArguments("out", eval_strategy="steps", lr_scheduler_type="cosine")
    document = args.to_dict()
    assert json.loads(json.dumps(document)) == document
    assert (document["eval_strategy"], type(document["eval_strategy"])) == ("steps", str)
    assert document.keys() == {field.name for field in dataclasses.fields(TrainingArguments)} - {"_n_gpu"}


def test_data_types_become_bare_names() -> None:
    args = TrainingArguments("out", lr_scheduler_kwargs={"a": torch.float32, "b": {"c": [torch.bfloat16]}})
    assert args.to_dict()["lr_scheduler_kwargs"] == {"a": "float32", "b": {"c": ["bfloat16"]}}


def test_the_configured_state_of_a_process_is_not_stored() -> None:
    assert "use_configured_state" not in TrainingArguments("out").to_dict()["accelerator_config"]


def test_json_is_indented_and_readable_back() -> None:
    text = TrainingArguments("out", seed=3).to_json_string()
    assert text.startswith('{\n  "output_dir": "out"')
    assert json.loads(text)["seed"] == 3


def test_what_json_has_no_word_for_becomes_text() -> None:
    assert json.loads(Mine("out", extra=Path("a")).to_json_string())["extra"] == "a"


def test_the_sanitized_dict_holds_scalars_and_texts_only() -> None:
    document = TrainingArguments("out", label_names=["labels"]).to_sanitized_dict()
    assert {type(value) for value in document.values()} <= {bool, int, float, str}
    assert (document["label_names"], document["data_seed"]) == ("['labels']", "None")
    assert (document["train_batch_size"], document["eval_batch_size"]) == (8, 8)


def test_the_dict_makes_equal_arguments_again() -> None:
    args = TrainingArguments("out", eval_strategy="steps", accelerator_config={"even_batches": False}, save_steps=0.5)
    document = {name: value for name, value in args.to_dict().items() if not name.endswith("_token")}
    assert TrainingArguments(**document) == args


def test_arguments_are_made_again_from_their_dict() -> None:
    args = TrainingArguments("out", learning_rate=0.5)
    assert TrainingArguments(**args.to_dict()).to_dict() == args.to_dict()
    assert TrainingArguments(**json.loads(args.to_json_string())).learning_rate == 0.5


def test_a_subclass_s_own_number_is_stored_whatever_it_is_called() -> None:
    @dataclasses.dataclass
    class Mine(TrainingArguments):
        num_key_heads: int = 4
        api_key: str = "hidden"

    stored = Mine("out").to_dict()
    assert (stored["num_key_heads"], stored["api_key"]) == (4, "<API_KEY>")
