from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import trainer_callback

from hftrain.types.control import ExportableState, TrainerControl

SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())


class Counter(ExportableState):
    def __init__(self, start: int = 0) -> None:
        self.start = self.count = start

    def state(self) -> dict[str, Any]:
        return {"args": {"start": self.start}, "attributes": {"count": self.count}}


def test_the_fields_and_defaults_are_the_documented_ones() -> None:
    ours = [
        {"name": field.name, "type": field.type, "default": field.default}
        for field in dataclasses.fields(TrainerControl)
    ]
    assert ours == SURFACE["TrainerControl"]


@pytest.mark.parametrize("name", SURFACE["TrainerControl_methods"])
def test_the_methods_take_what_is_documented(name: str) -> None:
    theirs = inspect.signature(getattr(trainer_callback.TrainerControl, name))
    assert list(inspect.signature(getattr(TrainerControl, name)).parameters) == list(theirs.parameters)


@pytest.mark.parametrize("clear", ["_new_training", "_new_epoch", "_new_step"])
def test_a_beginning_clears_the_switches_that_the_reference_clears(clear: str) -> None:
    ours = TrainerControl(*[True] * 5)
    theirs = trainer_callback.TrainerControl(*[True] * 5)
    getattr(ours, clear)()
    getattr(theirs, clear)()
    assert vars(ours) == vars(theirs)


def test_the_exported_state_is_the_reference_s_and_restores() -> None:
    control = TrainerControl(should_save=True)
    assert control.state() == trainer_callback.TrainerControl(should_save=True).state()
    assert TrainerControl.from_state(control.state()) == control


def test_an_object_is_rebuilt_from_arguments_and_then_attributes() -> None:
    counter = Counter(3)
    counter.count = 5
    rebuilt = Counter.from_state(counter.state())
    assert (rebuilt.start, rebuilt.count) == (3, 5)


def test_a_class_that_does_not_say_its_state_is_named() -> None:
    class Silent(ExportableState):
        pass

    with pytest.raises(NotImplementedError, match="Silent inherits ExportableState and has no state"):
        Silent().state()
