from __future__ import annotations

import ast
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from hftrain.args.availability import REFUSED as REFUSED_ROWS
from hftrain.args.availability import REFUSED_KEYS, REFUSED_VALUES
from hftrain.args.extensions import ExtensionArguments
from hftrain.args.seq2seq import Seq2SeqTrainingArguments
from hftrain.args.training import TrainingArguments
from hftrain.errors import ConfigurationError
from tests.args.argument_table import (
    ACTS,
    ARGUMENTS,
    PARTLY_REFUSED,
    PROOFS,
    REFUSALS,
    REFUSED,
    REFUSED_EXAMPLES,
    SCRIPT,
)

ROOT = Path(__file__).parents[2]
SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())
OWN = {field.name for field in dataclasses.fields(ExtensionArguments)}
GENERATING = {row["name"] for row in SURFACE["Seq2SeqTrainingArguments_extra"]}


def test_every_documented_argument_has_one_class() -> None:
    assert ARGUMENTS.keys() == {row["name"] for row in SURFACE["TrainingArguments"]} | GENERATING
    assert set(ARGUMENTS.values()) == {ACTS, SCRIPT, REFUSED}


def test_the_refused_arguments_are_those_with_a_row() -> None:
    refused = {name for name, kind in ARGUMENTS.items() if kind == REFUSED}
    assert REFUSED_ROWS.keys() - OWN == refused
    assert REFUSED_EXAMPLES.keys() == REFUSED_ROWS.keys()


def test_partly_refused_arguments_act() -> None:
    assert PARTLY_REFUSED.keys() == REFUSED_VALUES.keys() | {"accelerator_config"}
    assert {ARGUMENTS[name] for name in PARTLY_REFUSED} == {ACTS}


def test_every_argument_that_acts_or_is_refused_has_a_proof() -> None:
    assert PROOFS.keys() == {name for name, kind in ARGUMENTS.items() if kind == ACTS}
    assert REFUSALS.keys() >= {name for name, kind in ARGUMENTS.items() if kind == REFUSED} | PARTLY_REFUSED.keys()


def test_every_proof_is_a_test_that_is_there() -> None:
    named = {one for ids in PROOFS.values() for one in ids} | set(REFUSALS.values())
    assert all(PROOFS.values())
    assert {one for one in named if one not in ids_in(one.partition("::")[0])} == set()


@functools.cache
def ids_in(path: str) -> set[str]:
    """The ids of a test file's tests, read from its source."""
    nodes = ast.parse((ROOT / path).read_text()).body
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    return {f"{path}::{name}" for name in names if name.startswith("test_")}


@pytest.mark.parametrize(("name", "value"), [*REFUSED_EXAMPLES.items(), *PARTLY_REFUSED.items()])
def test_a_refused_argument_is_named_and_something_else_is_offered(name: str, value: Any) -> None:
    why = r"(does not support this yet|does not support this|cannot be imported)\. \w"
    with pytest.raises(ConfigurationError, match=rf"^{name}\b.*{why}"):
        Seq2SeqTrainingArguments("out", **{name: value})


@pytest.mark.parametrize("name", REFUSED_ROWS)
def test_a_refused_argument_may_be_given_with_what_asks_for_nothing(name: str) -> None:
    default = Seq2SeqTrainingArguments.__dataclass_fields__[name]
    values = [*REFUSED_ROWS[name].unset] if default.default is dataclasses.MISSING else [default.default]
    for value in [*values, *REFUSED_ROWS[name].unset]:
        Seq2SeqTrainingArguments("out", **{name: value})


def test_a_subclass_cannot_turn_a_refused_argument_on_by_its_default() -> None:
    @dataclasses.dataclass
    class Grouped(TrainingArguments):
        push_to_hub: bool = True

    with pytest.raises(ConfigurationError, match="push_to_hub=True"):
        Grouped("out")


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_a_key_of_accelerator_config_without_machinery_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"accelerator_config's {key}="):
        TrainingArguments("out", accelerator_config={key: REFUSED_KEYS[key][0]})


def test_a_refused_old_spelling_raises_before_it_warns() -> None:
    with pytest.raises(ConfigurationError, match="push_to_hub_token"):  # a warning would be an error here
        TrainingArguments("out", push_to_hub_token="secret")


def test_a_refused_token_is_not_in_the_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrainingArguments("out", hub_token="secret", push_to_hub_token="secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["none", [], ["none"]])
def test_reporting_to_nobody_is_accepted(value: Any) -> None:
    assert TrainingArguments("out", report_to=value).report_to == []
