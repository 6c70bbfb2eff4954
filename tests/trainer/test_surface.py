"""The public methods of both trainers, with the documented parameters in their order."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from hftrain import Seq2SeqTrainer, Trainer

SURFACE: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())
METHODS = [(Trainer, name, text) for name, text in SURFACE["Trainer"].items()]
METHODS += [(Seq2SeqTrainer, name, text) for name, text in (SURFACE["Trainer"] | SURFACE["Seq2SeqTrainer"]).items()]

MORE_IS_TAKEN = {  # method -> what ours takes beside the documented parameters, and why
    (Trainer, "__init__"): (", datamodule=None, tokenizer=None", "keyword-only: a task's data, and an old name"),
    (Seq2SeqTrainer, "__init__"): (", **further", "the same two, and optimizer_cls_and_kwargs"),
}


def shown(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = getattr(parameter.default, "value", parameter.default)
    return stars + parameter.name + ("" if default is parameter.empty else f"={default}")


@pytest.mark.parametrize(("trainer", "name", "documented"), METHODS)
def test_a_public_method_takes_what_is_documented(trainer: type[Trainer], name: str, documented: str) -> None:
    method = inspect.getattr_static(trainer, name)
    if documented == "property":
        assert isinstance(method, property)
        return
    method = method.__func__ if isinstance(method, staticmethod) else method
    parameters = list(inspect.signature(method).parameters.values())
    taken = f"({', '.join(map(shown, parameters))})"
    if name == "predict":  # a DataModule's data may be meant, so the data set may be left out
        taken = taken.replace("test_dataset=None", "test_dataset")
    more, _ = MORE_IS_TAKEN.get((trainer, name), ("", ""))
    assert taken == f"{documented[:-1]}{more})"
    assert method.__doc__ or name == "__init__"
