from __future__ import annotations

import dataclasses
import inspect
import json
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from hftrain.args.extensions import ExtensionArguments
from hftrain.args.seq2seq import Seq2SeqTrainingArguments
from hftrain.args.training import TrainingArguments

SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())
DOCUMENTED = {row["name"]: row for row in SURFACE["TrainingArguments"]}
OURS = {field.name: field for field in dataclasses.fields(TrainingArguments)}
OWN = {field.name for field in dataclasses.fields(ExtensionArguments)}

INTENDED_TYPES: dict[str, str] = {}  # argument -> why its type is not the documented one


def default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def words(annotation: Any) -> set[str]:
    """The types a value may have: {"int", "None"} for `int | None`."""
    if annotation is type(None):
        return {"None"}
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(words(member) for member in get_args(annotation)))
    if get_origin(annotation) is not None:
        inner = ", ".join("/".join(sorted(words(member))) for member in get_args(annotation))
        return {f"{get_origin(annotation).__name__}[{inner}]"}
    return {"Any" if annotation is Any else annotation.__name__}


def documented_words(text: str) -> set[str]:
    """The same, of the documented annotation."""
    if text.startswith("Optional["):
        return documented_words(text[len("Optional[") : -1]) | {"None"}
    if text.startswith("Union["):
        parts, depth = [""], 0
        for letter in text[len("Union[") : -1]:
            depth += {"[": 1, "]": -1}.get(letter, 0)
            parts = [*parts, ""] if letter == "," and depth == 0 else [*parts[:-1], parts[-1] + letter]
        return set().union(*(documented_words(part.strip()) for part in parts))
    bare = {"NoneType": "None", "dict": "dict[str, Any]"}.get(text, text)
    head, bracket, rest = bare.partition("[")
    return {head.rsplit(".", 1)[-1] + bracket + rest.rsplit(".", 1)[-1]}


def test_the_names_are_the_documented_ones_and_our_own() -> None:
    assert OURS.keys() == DOCUMENTED.keys() | OWN
    assert not DOCUMENTED.keys() & OWN


def test_the_defaults_are_the_documented_ones() -> None:
    found = {name: default(OURS[name]) for name in DOCUMENTED}
    assert found == {name: row["default"] for name, row in DOCUMENTED.items()}
    assert {name: type(value) for name, value in found.items()} == {
        name: type(row["default"]) for name, row in DOCUMENTED.items()
    }


def test_the_types_are_the_documented_ones_but_for_the_intended_differences() -> None:
    hints = get_type_hints(TrainingArguments)
    different = {name for name in DOCUMENTED if words(hints[name]) != documented_words(DOCUMENTED[name]["type"])}
    assert different == INTENDED_TYPES.keys()


def test_the_arguments_of_generating_models_are_the_documented_ones() -> None:
    ours = {field.name: field.default for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    extra = {row["name"]: row["default"] for row in SURFACE["Seq2SeqTrainingArguments_extra"]}
    assert {name: value for name, value in ours.items() if name not in OURS} == extra


def test_only_output_dir_is_positional() -> None:
    parameters = list(inspect.signature(TrainingArguments).parameters.values())
    assert [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY] == [
        "output_dir"
    ]


def test_every_argument_but_the_private_one_has_a_help_text() -> None:
    assert [name for name, field in OURS.items() if not field.metadata.get("help")] == ["_n_gpu"]


def test_defaults_are_also_attributes_of_the_class() -> None:
    shared = {name: default(field) for name, field in OURS.items() if field.default is not dataclasses.MISSING}
    assert {name: getattr(TrainingArguments, name) for name in shared} == shared
    assert {"adam_beta1", "learning_rate", "optim", "per_device_train_batch_size"} <= shared.keys()


def test_the_methods_and_properties_are_the_documented_ones() -> None:
    for name, signature in SURFACE["TrainingArguments_methods"].items():
        ours = inspect.getattr_static(TrainingArguments, name)
        if signature == "property":
            assert isinstance(ours, property), name
        elif name != "__init__":
            parameters = inspect.signature(ours).parameters.values()
            shown = ", ".join(
                p.name if p.default is p.empty else f"{p.name}={getattr(p.default, 'value', p.default)}"
                for p in parameters
            )
            assert f"({shown})" == signature, name
