from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.runs import runs_of
from hftrain.plugin_api.spool import Spool, SpoolTail
from hftrain.report import follow
from hftrain.report.follow import Follower, progress_of, recent_timing, state_document
from hftrain.report.runs import RunData, RunReader, Series
from tests.report.test_runs import TIMING, row


def spool_of(folder: Path, name: str = "20260101-000000-aaaaaa", **start: Any) -> Spool:
    spool = Spool(str(folder / "runs" / name))
    spool.append("start", step=0, data=start)
    return spool


def read(follower: Follower) -> RunData:
    run = follower.read()
    assert run is not None
    return run


def run_of(*events: Any) -> RunData:
    return RunReader("out/runs/a").feed(events).data()


def series(steps: list[int], times: list[float]) -> Series:
    return Series(steps, [1.0] * len(steps), times)


def test_a_tail_reads_each_line_once(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    tail = SpoolTail(spool.path)
    assert [event.seq for event in tail.read()] == [1]
    spool.append("log", step=1)
    assert [event.seq for event in tail.read()] == [2]
    assert list(tail.read()) == []


def test_a_line_that_is_not_whole_yet_is_read_when_it_is(tmp_path: Path) -> None:
    spool, whole = spool_of(tmp_path), row(1, loss=1.0).to_line()
    tail = SpoolTail(spool.path)
    with open(spool.path, "ab", buffering=0) as file:
        file.write(whole[:20])
        assert len(list(tail.read())) == 1
        file.write(whole[20:])
    assert [event.step for event in tail.read()] == [1]


def test_a_run_grows(tmp_path: Path) -> None:
    spool, follower = spool_of(tmp_path), Follower(str(tmp_path))
    assert read(follower).step == 0
    spool.append("log", step=5, data={"loss": 1.0})
    assert read(follower).step == 5
    assert follower.read() is follower.read()


def test_a_run_that_begins_later_is_waited_for(tmp_path: Path) -> None:
    follower = Follower(str(tmp_path / "not_there_yet"))
    assert follower.read() is None
    spool_of(tmp_path / "not_there_yet")
    assert read(follower).run_id == "20260101-000000-aaaaaa"


def test_a_newer_run_takes_its_place(tmp_path: Path) -> None:
    spool_of(tmp_path)
    follower = Follower(str(tmp_path))
    read(follower)
    spool_of(tmp_path, "20260102-000000-bbbbbb")
    spool_of(tmp_path, "evaluation")
    assert read(follower).run_id == "20260102-000000-bbbbbb"


def test_a_folder_of_a_run_stays_that_run(tmp_path: Path) -> None:
    spool_of(tmp_path)
    spool_of(tmp_path, "20260102-000000-bbbbbb")
    assert read(Follower(str(tmp_path / "runs" / "20260101-000000-aaaaaa"))).run_id.startswith("20260101")


def test_a_resumed_run_goes_on_from_its_step(tmp_path: Path) -> None:
    spool, follower = spool_of(tmp_path), Follower(str(tmp_path))
    for step in (1, 2, 3):
        spool.append("log", step=step, data={"loss": float(step)})
    spool.append("finish", step=3, data={"status": "interrupted"})
    assert read(follower).status == "interrupted"
    spool.append("resume", step=2)
    spool.append("log", step=3, data={"loss": 9.0})
    run = read(follower)
    assert (run.status, list(run.series["loss"].values)) == (None, [1.0, 2.0, 9.0])


def test_a_long_record_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_MOST_AT_ONCE", 2)
    spool, follower = spool_of(tmp_path), Follower(str(tmp_path))
    for step in (1, 2):
        spool.append("log", step=step)
    assert (read(follower).step, follower.is_behind) == (1, True)
    assert (read(follower).step, follower.is_behind) == (2, False)


def test_a_record_that_is_replaced_or_removed_is_read_anew(tmp_path: Path) -> None:
    spool, follower = spool_of(tmp_path), Follower(str(tmp_path))
    spool.append("log", step=7)
    assert read(follower).step == 7
    shutil.rmtree(tmp_path / "runs")
    assert read(follower).step == 7
    spool_of(tmp_path)
    assert read(follower).step == 0


def test_the_runs_of_a_url_are_those_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spool_of(tmp_path / "hftrain", "20260101-000000-aaaaaa", output_dir="s3://bucket/other")
    mine = spool_of(tmp_path / "hftrain", "20260101-000000-bbbbbb", output_dir="s3://bucket/out/")
    for url in ("s3://bucket/out", "s3://bucket/out/", "s3://bucket/out/runs/20260101-000000-bbbbbb"):
        assert runs_of(url) == [mine.folder]
    assert runs_of("s3://bucket/out/runs/20260101-000000-aaaaaa") == []
    assert read(Follower("s3://bucket/out")).run_id == "20260101-000000-bbbbbb"


def test_the_pace_is_that_of_the_last_rows_and_tells_what_is_left() -> None:
    run = RunData(
        folder="", run_id="", step=30, max_steps=60, started=0.0, updated=9.0, series={"loss": series([10, 30], [5, 9])}
    )
    found = progress_of(run, now=10.0)
    assert (found.steps_per_second, found.left_s, found.elapsed_s, found.silent_s) == (5.0, 6.0, 10.0, 1.0)


def test_the_pause_before_a_resume_is_no_part_of_the_pace() -> None:
    rows = {"loss": series([10, 20, 30, 40], [1, 2, 1000, 1005])}
    run = RunData(folder="", run_id="", step=40, max_steps=50, started=0.0, series=rows, resumes=(20,))
    assert progress_of(run, now=1006).left_s == 5.0


def test_one_row_tells_the_pace_since_the_beginning() -> None:
    run = RunData(folder="", run_id="", step=10, max_steps=20, started=0.0, series={"loss": series([10], [5.0])})
    assert progress_of(run, now=5.0).left_s == 5.0


@pytest.mark.parametrize("steps", [[], [5, 5]])
def test_what_cannot_be_told_is_left_open(steps: list[int]) -> None:
    run = RunData(folder="", run_id="", step=5, series={"loss": series(steps, [1.0] * len(steps))})
    found = progress_of(run, now=5.0)
    assert (found.steps_per_second, found.left_s, found.elapsed_s) == (None, None, None)


def test_a_run_that_has_ended_took_until_its_end() -> None:
    run = RunData(folder="", run_id="", status="finished", step=9, max_steps=9, started=1.0, updated=4.0)
    found = progress_of(run, now=1000.0)
    assert (found.elapsed_s, found.left_s) == (3.0, None)


def test_the_time_of_recent_steps_is_added_up() -> None:
    found = recent_timing(run_of(row(8, loss=1.0, timing=TIMING), row(16, loss=1.0, timing=TIMING)))
    assert found == {name: 2 * value for name, value in TIMING.items()}


def test_the_document_is_json_whatever_was_told() -> None:
    run = run_of(row(1, loss="nan", eval_loss=1.0), row(2, loss="inf", eval_loss=0.5))
    document = state_document(run, now=3.0)
    assert document["metrics"]["eval_loss"] == {"last": 0.5, "step": 2, "min": 0.5, "max": 1.0, "num": 2}
    assert document["metrics"]["loss"]["min"] is None
    assert math.isinf(document["metrics"]["loss"]["last"])
    assert json.loads(json.dumps(document))["status"] == "running"


def test_reading_leaves_the_record_as_it_is(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    os.chmod(spool.path, 0o444)
    before = os.stat(spool.path)
    read(Follower(str(tmp_path)))
    assert os.stat(spool.path).st_mtime_ns == before.st_mtime_ns
    assert os.listdir(spool.folder) == ["events.jsonl"]
