from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from transformers import trainer_callback, trainer_utils, training_args
from transformers.debug_utils import DebugOption as TheirDebugOption

from hftrain.errors import ConfigurationError
from hftrain.types import choices
from hftrain.types.callback import TrainerCallback

SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())
NAMES = ("SchedulerType", "IntervalStrategy", "SaveStrategy", "HubStrategy", "OptimizerNames", "DebugOption")


@pytest.mark.parametrize("name", NAMES)
def test_the_words_are_the_documented_ones(name: str) -> None:
    assert [member.value for member in getattr(choices, name)] == SURFACE[name]


def test_the_search_backends_are_the_documented_ones() -> None:
    assert [member.value for member in choices.HPSearchBackend] == SURFACE["hp_backends"]


@pytest.mark.parametrize(
    "theirs",
    [
        trainer_utils.SchedulerType,
        trainer_utils.IntervalStrategy,
        trainer_utils.SaveStrategy,
        trainer_utils.HubStrategy,
        trainer_utils.FSDPOption,
        trainer_utils.HPSearchBackend,
        training_args.OptimizerNames,
        training_args.ParallelMode,
        TheirDebugOption,
    ],
)
def test_members_print_and_compare_as_the_reference_does(theirs: type[Enum]) -> None:
    ours = getattr(choices, theirs.__name__)
    assert {name: member.value for name, member in ours.__members__.items()} == {
        name: member.value for name, member in theirs.__members__.items()
    }
    for mine, other in zip(ours, theirs, strict=True):
        assert (str(mine), repr(mine), f"{mine}") == (str(other), repr(other), f"{other}")
        assert (mine == mine.value) == (other == other.value)


def test_a_wrong_word_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ConfigurationError, match="'sometimes' is no IntervalStrategy: choose one of 'no', 'steps', 'e"):
        choices.IntervalStrategy("sometimes")


def test_the_reference_s_own_member_is_understood() -> None:
    assert choices.SaveStrategy(trainer_utils.SaveStrategy.BEST) is choices.SaveStrategy.BEST


def test_a_member_finds_what_a_dictionary_holds_under_its_word() -> None:
    assert {"steps": 1}[choices.IntervalStrategy.STEPS] == 1


def test_there_is_one_event_for_each_method_of_a_callback() -> None:
    methods = {name for name in vars(TrainerCallback) if name.startswith("on_")}
    assert {event.value for event in choices.Event} == methods
    assert methods == {name for name in vars(trainer_callback.TrainerCallback) if name.startswith("on_")}
