from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from hftrain.args.seq2seq import Seq2SeqTrainingArguments
from hftrain.errors import ConfigurationError
from hftrain.trainer.generation import (
    check_generation,
    generation_arguments,
    generation_inputs,
    load_generation_config,
    pad_token_of,
    padded_width,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_length": 9, "num_beams": 3}),
        ({"max_length": 5}, {"max_length": 5, "num_beams": 3}),
        ({"max_length": None, "num_beams": None}, {"max_length": 9, "num_beams": 3}),
        ({"max_new_tokens": 4, "num_beams": 1}, {"max_new_tokens": 4, "num_beams": 1}),
        ({"do_sample": True, "top_k": None}, {"do_sample": True, "top_k": None, "max_length": 9, "num_beams": 3}),
    ],
)
def test_what_is_passed_comes_before_the_arguments(given: dict[str, Any], expected: dict[str, Any]) -> None:
    args = Seq2SeqTrainingArguments("out", generation_max_length=9, generation_num_beams=3)
    assert generation_arguments(given, args) == expected


def test_without_settings_the_configuration_alone_counts() -> None:
    given = {"max_length": None, "num_beams": None}
    assert generation_arguments(given, Seq2SeqTrainingArguments("out")) == {}


@pytest.mark.parametrize(
    ("arguments", "config", "found"),
    [
        (
            {"max_length": 20, "max_new_tokens": 5},
            None,
            "max_length=20 .*effect: max_new_tokens=5 among the arguments",
        ),
        ({"max_length": 20}, {"max_new_tokens": 7}, "max_new_tokens=7 in the generation configuration"),
        ({"max_length": 20, "min_length": 30}, None, "max_length=20 .*below min_length=30 among the arguments"),
        ({"max_length": 20}, {"min_length": 25}, "min_length=25 in the generation configuration"),
        ({"num_return_sequences": 2}, None, "num_return_sequences=2 .*one row for each sample"),
        ({}, {"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences=2 in the generation configuration"),
    ],
)
def test_what_generate_would_pass_over_is_refused(arguments: Any, config: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=found):
        check_generation(arguments, None if config is None else GenerationConfig(**config))


@pytest.mark.parametrize(
    "arguments", [{}, {"max_length": 5}, {"max_new_tokens": 5}, {"max_length": 5, "max_new_tokens": None}]
)
def test_lengths_that_act_are_accepted(arguments: dict[str, Any]) -> None:
    check_generation(arguments, GenerationConfig(max_new_tokens=None if "max_new_tokens" not in arguments else 3))


@pytest.mark.parametrize("named_by", ["object", "folder", "file", "path"])
def test_a_configuration_is_given_as_itself_or_by_where_it_is(named_by: str, tmp_path: Path) -> None:
    config = GenerationConfig(max_length=7, num_beams=2)
    config.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    given = {"object": config, "folder": str(tmp_path), "file": str(file), "path": file}[named_by]
    loaded = load_generation_config(given)
    assert (loaded.max_length, loaded.num_beams) == (7, 2)
    assert loaded is not config


def test_a_configuration_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="settings that contradict each other"):
        load_generation_config(GenerationConfig(num_beams=1, early_stopping=True))


def test_decoder_inputs_made_of_the_labels_are_left_out() -> None:
    batch = {"input_ids": torch.ones(2, 5), "labels": torch.ones(2, 3), "decoder_input_ids": torch.ones(2, 3)}
    batch["decoder_attention_mask"] = torch.ones(2, 3)
    assert generation_inputs(batch).keys() == {"input_ids", "labels"}


def test_decoder_inputs_of_their_own_are_a_prompt() -> None:
    prompt = {"labels": torch.ones(2, 3), "decoder_input_ids": torch.ones(2, 1)}
    assert generation_inputs(prompt).keys() == prompt.keys()
    assert generation_inputs({"decoder_input_ids": torch.ones(2, 1)}).keys() == {"decoder_input_ids"}


@pytest.mark.parametrize(
    ("width", "settings", "expected"),
    [
        (5, {"max_length": 20}, 20),
        (20, {"max_length": 20}, None),
        (25, {"max_length": 20, "max_new_tokens": 30}, 31),
        (15, {"max_length": 20, "max_new_tokens": 30}, 20),
        (31, {"max_length": 20, "max_new_tokens": 30}, None),
        (5, {"max_length": None}, None),
    ],
)
def test_tokens_are_filled_up_to_what_the_configuration_names(width: int, settings: Any, expected: int | None) -> None:
    assert padded_width(width, SimpleNamespace(**settings)) == expected
    assert padded_width(width, None) is None


def test_the_pad_token_is_the_tokenizers_or_else_the_models() -> None:
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(pad_token_id=4)
    assert pad_token_of(None, model) == 4
    assert pad_token_of(SimpleNamespace(pad_token_id=0), model) == 0
    assert pad_token_of(SimpleNamespace(pad_token_id=None, eos_token_id=3), model) == 3
    model.config.pad_token_id = None
    with pytest.raises(ConfigurationError, match="Set model.config.pad_token_id"):
        pad_token_of(None, model)


def test_a_generation_config_that_is_none_is_refused_by_its_type() -> None:
    with pytest.raises(ConfigurationError, match=r"generation_config=\{'max_length': 5\} is a dict\. Pass a Gen"):
        load_generation_config({"max_length": 5})
