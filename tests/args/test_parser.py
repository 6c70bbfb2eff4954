"""The parser beside the reference's, on the same dataclasses and the same words."""

from __future__ import annotations

import json
import sys
from argparse import Action, ArgumentParser
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
from transformers import HfArgumentParser as ReferenceParser
from transformers import Seq2SeqTrainingArguments as ReferenceArguments

from hftrain.args.extensions import ExtensionArguments
from hftrain.args.parser import HfArgumentParser
from hftrain.args.seq2seq import Seq2SeqTrainingArguments
from hftrain.args.training import TrainingArguments
from hftrain.errors import ConfigurationError


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Basic:
    name: str
    size: int
    rate: float = 0.5
    use_it: bool = True
    skip_it: bool = False
    maybe: bool | None = None
    surely: Optional[bool] = True  # noqa: UP045
    layers: list[int] = field(default_factory=lambda: [1, 2])
    words: list[str] | None = None
    color: Color = Color.RED
    level: Literal[1, "two"] = 1
    either: None | str | list[str] = None
    typed: Union[int, str] = 3  # noqa: UP007
    limit: Optional[float] = field(default=None, metadata={"help": "How far.", "aliases": ["--lim", "-l"]})  # noqa: UP045


@dataclass
class More:
    _argument_group_name = "more"
    depth: int = 3
    hidden: int = field(default=0, init=False)


LINES = [
    "--name a --size 3",
    "--name a --size 3 --rate 1e-4 --use_it false --skip_it --maybe yes --surely no",
    "--name a --size 3 --no_use_it --no-surely --skip-it True",
    "--name=a --size=3 --no-use-it --no_surely --maybe 0",
    "--name a --size 3 --layers 4 5 6 --words x y --color blue --level two --typed 5",
    "--name a --size 3 --either p --level 1 --lim 2",
    "-l 3 --size 1 --size 2 --name b --depth 9 --use_it",
]


def both(*kinds: Any) -> tuple[HfArgumentParser, ReferenceParser]:
    return HfArgumentParser(kinds), ReferenceParser(kinds)


def described(action: Action) -> dict[str, Any]:
    names = ("option_strings", "dest", "nargs", "const", "default", "required", "help")
    return {name: getattr(action, name) for name in names} | {"choices": [*(action.choices or ())]}


@pytest.mark.parametrize("line", LINES)
def test_a_line_means_what_it_means_to_the_reference(line: str) -> None:
    ours, theirs = both(Basic, More)
    assert ours.parse_args_into_dataclasses(line.split()) == theirs.parse_args_into_dataclasses(line.split())


@pytest.mark.parametrize("line", ["", "--name a --size x", "--name a --size 1 --use_it perhaps", "--color green"])
def test_what_the_reference_exits_for_ends_the_script(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    for parser in both(Basic):
        with pytest.raises(SystemExit):
            parser.parse_args_into_dataclasses(line.split())
    assert "error:" in capsys.readouterr().err


def test_the_options_are_the_references() -> None:
    ours, theirs = ([described(action) for action in parser._actions] for parser in both(Basic, More))
    assert ours == theirs


def test_a_dataclass_may_have_its_own_group_in_the_help() -> None:
    text = HfArgumentParser([Basic, More]).format_help()
    assert "more:\n  --depth DEPTH" in text
    assert "How far. (default: None)" in text


INTENDED_DIFFERENCES = {"report_to": "takes several words, since several trackers may be named"}


def option_table(parser: ArgumentParser) -> dict[str, tuple[Any, ...]]:
    """Option -> how it is read; what it may be is checked by the arguments themselves."""
    left_out = {one.name for one in fields(ExtensionArguments)} | INTENDED_DIFFERENCES.keys()
    rows = [action for action in parser._actions if action.dest not in left_out]
    return {name: (row.dest, row.nargs, row.const, row.required) for row in rows for name in row.option_strings}


def test_every_training_argument_is_the_option_that_it_is_in_the_reference() -> None:
    ours, theirs = HfArgumentParser(Seq2SeqTrainingArguments), ReferenceParser(ReferenceArguments)
    assert option_table(ours) == option_table(theirs)


def test_several_trackers_may_be_named() -> None:
    parsed = HfArgumentParser(TrainingArguments).parse_args(["--report_to", "a", "b"])
    assert parsed.report_to == ["a", "b"]


def test_a_line_makes_the_training_arguments_that_it_spells() -> None:
    line = (
        "--output-dir out --learning_rate 1e-3 --eval_strategy epoch --save-strategy epoch --bf16 --no-save_safetensors"
    )
    line = line.replace(" --no-save_safetensors", " --no_remove_unused_columns --logging_steps 0.5 --logging_dir logs")
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(line.split())
    given = TrainingArguments(
        "out",
        learning_rate=1e-3,
        eval_strategy="epoch",
        save_strategy="epoch",
        bf16=True,
        remove_unused_columns=False,
        logging_steps=0.5,
        logging_dir="logs",  # the default has the time in it
    )
    assert args == given


def test_an_argument_that_is_a_dict_may_be_json_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"even_batches": false}')
    words = ["--output_dir", "out", "--lr_scheduler_kwargs", '{"min_lr": "1e-5"}', "--accelerator_config", str(file)]
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(words)
    assert args.lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert args.accelerator_config.even_batches is False


def test_the_help_of_the_training_arguments_can_be_printed() -> None:
    text = HfArgumentParser(Seq2SeqTrainingArguments).format_help()
    assert "--generation_num_beams" in text
    assert "Passes over the training data" in text


def test_a_default_that_is_a_text_stays_where_a_list_is_read() -> None:
    @dataclass
    class Both:
        names: str | list[str] = "all"

    Both.__annotations__["names"] = str | list[str]
    parser = HfArgumentParser(Both)
    assert parser.parse_args_into_dataclasses([]) == (Both("all"),)
    assert parser.parse_args_into_dataclasses(["--names", "a", "b"]) == (Both(["a", "b"]),)  # type: ignore[arg-type]


def test_a_field_that_is_a_dict_is_read_as_json() -> None:
    @dataclass
    class Shaped:
        shape: dict[str, int] = field(default_factory=dict)

    (shaped,) = HfArgumentParser(Shaped).parse_args_into_dataclasses(["--shape", '{"a": 1}'])
    assert shaped.shape == {"a": 1}


def test_a_field_of_two_types_is_refused_with_both_named() -> None:
    @dataclass
    class Torn:
        size: int | float

    with pytest.raises(ConfigurationError, match="size may be int or float"):
        HfArgumentParser(Torn)


def test_a_type_that_cannot_be_found_is_refused() -> None:
    class Local: ...

    @dataclass
    class Uses:
        local: Local

    with pytest.raises(ConfigurationError, match="The type hints of Uses cannot be resolved"):
        HfArgumentParser(Uses)


def test_options_of_no_dataclass_come_back_as_a_namespace() -> None:
    results = []
    for parser in both(More):
        parser.add_argument("--extra", type=int, default=1)
        results.append(parser.parse_args_into_dataclasses(["--extra", "4", "--depth", "2"]))
    assert results[0] == results[1]
    assert results[0][1].extra == 4


def test_remaining_words_are_returned_when_asked_for() -> None:
    results = [p.parse_args_into_dataclasses(["--what", "4"], return_remaining_strings=True) for p in both(More)]
    assert results[0] == results[1] == (More(), ["--what", "4"])


def test_a_misspelt_option_is_named_with_the_closest_one() -> None:
    with pytest.raises(ConfigurationError, match="unknown arguments: '--dpeth' .did you mean '--depth'"):
        HfArgumentParser(More).parse_args_into_dataclasses(["--dpeth", "4"])


# ---- files of words ---------------------------------------------------------------------------------


def test_words_beside_the_script_come_before_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.args").write_text("--name file\n--size 1 --rate 2")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run.py"), "--size", "5"])
    results = [parser.parse_args_into_dataclasses() for parser in both(Basic)]
    assert results[0] == results[1] == (Basic("file", 5, 2.0),)


def test_the_file_beside_the_script_may_be_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.args").write_text("--depth 7")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run.py"), "--depth", "5"])
    assert HfArgumentParser(More).parse_args_into_dataclasses(look_for_args_file=False) == (More(5),)
    monkeypatch.setattr(sys, "argv", [""])
    assert HfArgumentParser(More).parse_args_into_dataclasses() == (More(),)


@pytest.mark.parametrize("flag", ["--args_file", "--args-file"])
def test_the_command_line_may_name_files_and_the_last_one_counts(flag: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a.args", tmp_path / "b.args"
    first.write_text("--name a --size 1 --rate 1")
    second.write_text("--size 2")
    words = ["--args_file", str(first), "--args_file", str(second), "--rate", "9"]
    ours, theirs = both(Basic)
    expected = theirs.parse_args_into_dataclasses(words, args_file_flag="--args_file")
    words = [flag if word == "--args_file" else word for word in words]
    assert ours.parse_args_into_dataclasses(words, args_file_flag="--args_file") == expected == (Basic("a", 2, 9.0),)


def test_a_named_file_comes_instead_of_the_one_beside_the_script(tmp_path: Path) -> None:
    file = tmp_path / "other.args"
    file.write_text("--depth 8")
    for parser in both(More):
        assert parser.parse_args_into_dataclasses([], args_filename=str(file)) == (More(8),)
        assert parser.parse_args_into_dataclasses([], args_filename=str(tmp_path / "none.args")) == (More(),)


def test_a_file_named_on_the_command_line_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match="--args_file nowhere.args: there is no such file"):
        HfArgumentParser(More).parse_args_into_dataclasses(
            ["--args_file", "nowhere.args"], args_file_flag="--args_file"
        )


# ---- documents --------------------------------------------------------------------------------------

DOCUMENT = {"name": "a", "size": 2, "words": ["x"], "depth": 1}


def test_a_dict_fills_the_dataclasses() -> None:
    ours, theirs = both(Basic, More)
    assert ours.parse_dict(DOCUMENT) == theirs.parse_dict(DOCUMENT) == (Basic("a", 2, words=["x"]), More(1))


def test_json_and_yaml_files_fill_the_dataclasses(tmp_path: Path) -> None:
    file, other = tmp_path / "a.json", tmp_path / "a.yaml"
    file.write_text(json.dumps(DOCUMENT))
    other.write_text("name: a\nsize: 2\nwords: [x]\ndepth: 1\n")
    expected = HfArgumentParser([Basic, More]).parse_dict(DOCUMENT)
    for parser in both(Basic, More):
        assert parser.parse_json_file(file) == parser.parse_yaml_file(str(other)) == expected


@pytest.mark.parametrize("name", ["parse_json_file", "parse_yaml_file"])
def test_unknown_keys_of_a_file_are_named_with_the_closest_ones(name: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"output_dir": "out", "lerning_rate": 0.1, "zzz": 2}')
    parser = HfArgumentParser(TrainingArguments)
    expected = r"run.json has unknown arguments: 'lerning_rate' \(did you mean 'learning_rate'\?\), 'zzz'\.$"
    with pytest.raises(ConfigurationError, match=expected):
        getattr(parser, name)(file)
    assert getattr(parser, name)(file, allow_extra_keys=True) == (TrainingArguments("out"),)


def test_a_number_that_yaml_takes_for_a_text_is_a_number_again(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: out\nlearning_rate: 1e-3\n")
    (args,) = HfArgumentParser(TrainingArguments).parse_yaml_file(file)
    assert args.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("parse_json_file", "{", "run.txt is not valid JSON"),
        ("parse_yaml_file", "a: [", "run.txt is not valid YAML"),
        ("parse_json_file", "[1]", r"run.txt holds \[1\]"),
        ("parse_yaml_file", "", "run.txt holds None"),
    ],
)
def test_a_file_that_holds_no_arguments_is_refused(name: str, text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "run.txt"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=expected):
        getattr(HfArgumentParser(More), name)(file)


def test_the_references_own_parser_reads_our_arguments() -> None:
    words = ["--output_dir", "out", "--resume_from_checkpoint", "auto", "--report_to", "none", "--eval_steps", "0.2"]
    (args,) = ReferenceParser(Seq2SeqTrainingArguments).parse_args_into_dataclasses(words)
    assert (args.output_dir, args.resume_from_checkpoint, args.eval_steps) == ("out", "auto", 0.2)
