from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hftrain.plugin_api.spool import Spool, read_events, valid_events


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
