"""What a verb says is aligned for a person, whole for a program, and harmless for a terminal."""

from __future__ import annotations

import json

import pytest

from hftrain.cli.output import Output, counted, printable, table
from hftrain.errors import CheckpointError


def test_columns_are_aligned_and_numbers_end_at_one_edge() -> None:
    assert table(("name", "n"), [("a", "1"), ("longer", "100")], right=("n",)).splitlines() == [
        "name      n",
        "a         1",
        "longer  100",
    ]


def test_one_is_singular() -> None:
    assert (counted(1, "file"), counted(2, "file")) == ("1 file", "2 files")


@pytest.mark.parametrize(
    ("text", "shown"), [("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\nb"), ("é", "é"), ("\udcff", "\\udcff")]
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_line_break_in_a_cell_does_not_break_the_table() -> None:
    assert len(table(("a", "b"), [("x\ny", "z")]).splitlines()) == 2


def test_json_has_words_for_the_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).result({"a": [float("nan"), (float("-inf"), 1.5)]}, "not shown")
    assert json.loads(capsys.readouterr().out) == {"a": ["nan", ["-inf", 1.5]]}


def test_an_error_is_told_on_stderr_and_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).error(CheckpointError("It is torn."))
    told = capsys.readouterr()
    assert told.err == "It is torn.\n"
    assert json.loads(told.out) == {"error": {"type": "CheckpointError", "text": "It is torn."}}
