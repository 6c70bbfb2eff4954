from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hftrain.plugin_api.spool import Spool, SpoolReader, read_events, valid_events


def test_an_event_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "runs" / "r"))
    event = spool.append("log", step=3, epoch=0.5, data={"loss": 1.5})
    row = json.loads((tmp_path / "runs" / "r" / "events.jsonl").read_text())
    assert row == {"v": 1, "seq": 1, "time": event.time, "type": "log", "step": 3, "epoch": 0.5, "data": {"loss": 1.5}}


def test_numbers_go_on_where_the_last_process_stopped(tmp_path: Path) -> None:
    Spool(str(tmp_path)).append("log", step=1)
    assert Spool(str(tmp_path)).append("log", step=2).seq == 2


def test_a_line_that_was_cut_off_is_dropped_and_written_over(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.append("log", step=1)
    with open(spool.path, "ab") as file:
        file.write(b'{"v":1,"seq":2,"type":"lo')
    again = Spool(str(tmp_path))
    again.append("log", step=2)
    assert [(event.seq, event.step) for event in read_events(again.path)] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("line", [b"{}\n", b"[1]\n", b"nonsense\n", b'{"v":2,"seq":9,"type":"log","step":1}\n'])
def test_a_line_that_is_no_event_is_passed_over(tmp_path: Path, line: bytes) -> None:
    spool = Spool(str(tmp_path))
    with open(spool.path, "ab") as file:
        file.write(line)
    spool.append("log", step=1)
    assert [event.step for event in read_events(spool.path)] == [1]


def test_reading_begins_after_the_number_asked_for(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    for step in range(5):
        spool.append("log", step=step)
    assert [event.step for event in read_events(spool.path, after=3)] == [3, 4]


def test_steps_that_were_trained_again_count_once(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.append("start", step=0)
    for step in (1, 2, 3):
        spool.append("log", step=step, data={"loss": 1.0})
    spool.append("finish", step=3, data={"status": "interrupted"})
    spool.append("resume", step=2)
    spool.append("log", step=3, data={"loss": 2.0})
    seen = [(event.type, event.step, event.data.get("loss")) for event in valid_events(read_events(spool.path))]
    assert seen == [
        ("start", 0, None),
        ("log", 1, 1.0),
        ("log", 2, 1.0),
        ("resume", 2, None),
        ("log", 3, 2.0),
    ]


def test_a_full_disk_is_noted_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path))
    write = os.write

    def refuses(file: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:40])  # part of it still had room

    monkeypatch.setattr(os, "write", refuses)
    spool.append("log", step=1)
    monkeypatch.setattr(os, "write", write)
    assert spool.error is not None
    spool.append("log", step=2)
    assert spool.error is None
    assert [event.step for event in read_events(spool.path)] == [2]


def test_a_folder_that_cannot_be_made_is_noted_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(str(tmp_path / "file" / "runs"))
    assert spool.append("log", step=1).seq == 1
    assert "Not a directory" in str(spool.error)
    spool.close()


def test_a_number_that_a_tracker_was_told_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "wandb.cursor").write_text("41\n")
    assert Spool(str(tmp_path)).append("log", step=1).seq == 42


def test_the_last_number_is_found_behind_many_lines_that_are_none(tmp_path: Path) -> None:
    Spool(str(tmp_path)).append("log", step=1)
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write((b"x" * 999 + b"\n") * 700 + b"half a li")
    spool = Spool(str(tmp_path))
    assert spool.append("log", step=2).seq == 2
    assert [event.step for event in read_events(spool.path)] == [1, 2]


def test_pieces_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    for step in range(5):
        spool.append("log", step=step)
    reader = SpoolReader(spool.path)
    assert [[event.step for event in reader.read(3, after=1)] for _ in range(2)] == [[1, 2, 3], [4]]
    spool.append("log", step=5)
    assert [event.step for event in reader.read(3)] == [5]


def test_pieces_leave_out_what_a_resume_made_void(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    for step in (1, 2, 3):
        spool.append("log", step=step)
    spool.append("finish", step=3)
    spool.append("resume", step=1)
    spool.append("log", step=2)
    events = SpoolReader(spool.path).read(99)
    assert events == valid_events(read_events(spool.path))
    assert [(event.type, event.step) for event in events] == [("log", 1), ("resume", 1), ("log", 2)]
