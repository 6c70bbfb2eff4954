"""Which checkpoints are being uploaded, by the file that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hftrain.checkpoint.held import held_names
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError


def held(folder: Path, text: str | None) -> frozenset[str]:
    place = folder / "runs" / "run"
    place.mkdir(parents=True)
    if text is not None:
        (place / "held.json").write_text(text)
    return held_names(LocalStorage(), str(folder), "run")


def test_without_the_file_nothing_is_held(tmp_path: Path) -> None:
    assert held(tmp_path, None) == frozenset()


def test_the_file_names_the_folders(tmp_path: Path) -> None:
    text = json.dumps({"v": 1, "held": ["checkpoint-1", "checkpoint-7"]})
    assert held(tmp_path, text) == {"checkpoint-1", "checkpoint-7"}


@pytest.mark.parametrize("text", ["", '{"v": 1, "held"', "[]", '{"v": 2, "held": []}', '{"v": 1, "held": [1]}'])
def test_a_file_that_tells_nothing_is_an_error_since_something_may_be_held(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError):
        held(tmp_path, text)
