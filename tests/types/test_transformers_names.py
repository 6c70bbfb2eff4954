from __future__ import annotations

from importlib import import_module

import pytest
import transformers

import hftrain
from hftrain.types.transformers_names import _INSIDE, _NAMES, import_line

# Folders of ours have these names.
OUR_MODULES = {"data", "trainer"}


def test_every_name_of_the_reference_that_hftrain_lacks_has_its_line() -> None:
    public = {name for name in transformers.__all__ if "." not in name}
    lacking = public - hftrain._HOME.keys() - OUR_MODULES
    assert len(lacking) > 3000
    assert {name for name in lacking if import_line(name) != f"from transformers import {name}"} == set()


def test_no_name_that_hftrain_has_is_listed() -> None:
    listed = {*_NAMES.split(), *" ".join(_INSIDE.values()).split()}
    assert listed.isdisjoint(hftrain._HOME)


@pytest.mark.parametrize("module", _INSIDE)
def test_names_inside_the_references_modules_are_where_the_line_says(module: str) -> None:
    for name in _INSIDE[module].split():
        assert import_line(name) == f"from transformers.{module} import {name}"
        assert hasattr(import_module(f"transformers.{module}"), name)


@pytest.mark.parametrize("name", ["Trainr", "TrainingArgument", "trainer", "data", "args", "__path__", "foo", "Modell"])
def test_other_names_have_no_line(name: str) -> None:
    assert import_line(name) is None
