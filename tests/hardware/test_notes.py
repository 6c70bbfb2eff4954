"""Notes are seen by all processes of a run, and reading one never waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist

from hftrain.hardware.notes import Notes, OwnNotes, StoreNotes, notes_of_run


@pytest.fixture(params=["own", "store"])
def notes(request: Any) -> Notes:
    return OwnNotes() if request.param == "own" else StoreNotes(dist.HashStore())


def test_a_note_can_be_read_until_it_is_taken_away(notes: Notes) -> None:
    assert notes.read("a") is None
    notes.put("a", "first")
    notes.put("a", "é")
    assert notes.read("a") == "é"
    notes.remove("a")
    notes.remove("a")
    assert notes.read("a") is None


def test_a_run_of_one_process_has_its_own_and_several_without_a_group_have_none() -> None:
    assert isinstance(notes_of_run(1), OwnNotes)
    assert notes_of_run(2) is None
