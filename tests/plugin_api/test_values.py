from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from hftrain.plugin_api.values import finite_or_not, flat, is_secret_key, masked, number_of, plain


@pytest.mark.parametrize("value", [2.5, np.float32(2.5), np.array(2.5), torch.tensor(2.5), torch.tensor([2.5])[0]])
def test_whatever_holds_one_number_is_that_number(value: object) -> None:
    assert number_of(value) == 2.5


@pytest.mark.parametrize("value", ["2.5", None, [2.5], torch.ones(2), np.ones(1), object()])
def test_what_holds_no_single_number_is_none(value: object) -> None:
    assert number_of(value) is None


def test_plain_values_are_json_whatever_was_given() -> None:
    document = plain({"a": np.int64(3), "b": (1, {2}), "c": float("nan"), "d": torch.float16, 5: b"x", "e": None})
    assert json.loads(json.dumps(document, allow_nan=False)) == {
        "a": 3,
        "b": [1, [2]],
        "c": "nan",
        "d": "torch.float16",
        "5": "b'x'",
        "e": None,
    }


def test_a_value_inside_itself_comes_to_an_end() -> None:
    ring: list[object] = []
    ring.append(ring)
    json.dumps(plain(ring))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1.5])
def test_a_number_comes_back_from_its_plain_form(value: float) -> None:
    back = finite_or_not(plain(value))
    assert back == value or (math.isnan(value) and back is not None and math.isnan(back))


@pytest.mark.parametrize("key", ["hub_token", "HF_TOKEN", "api_key", "client_secret", "db_password", "token"])
def test_a_key_that_names_a_secret_hides_it(key: str) -> None:
    assert masked({key: "abc"}) == {key: "***"}


@pytest.mark.parametrize(
    "key", ["num_input_tokens_seen", "pad_token_id", "bos_token", "tokenizer_name", "additional_special_tokens"]
)
def test_words_of_language_models_are_no_secrets(key: str) -> None:
    assert not is_secret_key(key)


@pytest.mark.parametrize("key", ["keys_to_ignore_at_inference", "label_key", "label_keys", "ignore_keys"])
@pytest.mark.parametrize("value", ["labels", ["past_key_values", "labels"]])
def test_names_of_places_in_a_mapping_are_no_secrets(key: str, value: object) -> None:
    assert masked({key: value}) == {key: value}


def test_a_known_secret_is_hidden_among_names_of_places_too() -> None:
    assert masked({"ignore_keys": ["hf_abc"]}, secrets=["hf_abc"]) == {"ignore_keys": ["***"]}


@pytest.mark.parametrize(
    "key", ["api_keys", "api_tokens", "my_label_key", "KEYS_TO_IGNORE_AT_INFERENCE", "keys", "label_key_secret"]
)
@pytest.mark.parametrize("value", [["abc", "def"], [1, ["abc"]], {"mine": "abc"}, {"mine": [{"a": "abc"}, 2]}])
def test_a_secret_is_hidden_in_a_list_or_a_mapping(key: str, value: object) -> None:
    assert masked({key: value}) == {key: "***"}


@pytest.mark.parametrize("value", [[64, 64.0], {"first": 1, "second": [2, "inf", None]}])
def test_several_numbers_are_no_secret_whatever_they_are_called(value: object) -> None:
    assert masked({"key_dims": value}) == {"key_dims": value}


@pytest.mark.parametrize("value", [0.75, 4, "nan"])
@pytest.mark.parametrize("key", ["mean_token_accuracy", "num_key_value_heads"])
def test_a_number_is_no_secret_whatever_it_is_called(key: str, value: object) -> None:
    assert masked({key: value}) == {key: value}


def test_a_known_secret_is_hidden_wherever_it_stands() -> None:
    assert masked({"url": "https://hf_abc@host", "list": ["x hf_abc"]}, secrets=["hf_abc"]) == {
        "url": "https://***@host",
        "list": ["x ***"],
    }


@pytest.mark.parametrize("value", [None, "", True])
def test_a_secret_that_nobody_set_is_shown_as_unset(value: object) -> None:
    assert masked({"hub_token": value}) == {"hub_token": value}


def test_nested_mappings_become_one() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": 2, "e": {}}, separator=".") == {"a.b.c": 1, "d": 2, "e": {}}


@pytest.mark.parametrize("values", [torch.ones(2, 1), np.ones((2, 1)), torch.ones(2, 1, dtype=torch.bfloat16)])
def test_an_array_is_read_at_once(values: object) -> None:
    class Once:
        ndim = 2
        tolist = values.tolist  # type: ignore[attr-defined]

    assert plain(Once()) == plain(values) == [[1.0], [1.0]]


def test_a_number_too_large_for_a_float_is_kept() -> None:
    assert plain({"a": 10**400}) == {"a": 10**400}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://me:pa55@host:5432/db, and x", "at postgresql://***@host:5432/db, and x"),
        ("redis://:pa@55@host", "redis://***@host"),
        ("http://host:80/a@b http://[::1]:80/a", "http://host:80/a@b http://[::1]:80/a"),
        ("me:you@x", "me:you@x"),
    ],
)
def test_a_login_in_a_url_is_masked(text: str, shown: str) -> None:
    assert masked({"note": [text]}) == {"note": [shown]}
