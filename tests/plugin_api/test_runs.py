from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.errors import ConfigurationError
from hftrain.plugin_api.runs import described_run, find_run, read_remote_ids, replay, write_remote_ids
from hftrain.plugin_api.spool import Spool
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.worker import cursor_path


class Notes(Tracker):
    def __init__(self) -> None:
        self.run: Run | None = None
        self.steps: list[int] = []
        self.ends: list[str] = []

    def start(self, run: Run) -> str | None:
        self.run = run
        return "remote-7"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.steps.append(step)

    def finish(self, status: str, error: str | None) -> None:
        self.ends.append(status)


def make_run(folder: Path, *, steps: int = 3) -> Path:
    spool = Spool(str(folder))
    spool.append("start", step=0, data={"name": "mine", "arguments": {"seed": 1}, "output_dir": "out"})
    for step in range(1, steps + 1):
        spool.append("log", step=step, data={"loss": 1.0})
    spool.append("finish", step=steps, data={"status": "finished"})
    spool.close()
    return folder


def test_the_newest_run_of_an_output_dir_is_meant(tmp_path: Path) -> None:
    old, new = make_run(tmp_path / "runs" / "b"), make_run(tmp_path / "runs" / "a")
    os.utime(old / "events.jsonl", (1, 1))
    assert find_run(str(tmp_path)) == str(new)
    assert find_run(str(old)) == str(old)


def test_a_folder_without_a_run_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no run, and holds none"):
        find_run(str(tmp_path))


def test_ids_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_remote_ids(str(tmp_path), "r", {"wandb": "x"})
    assert read_remote_ids(str(tmp_path)) == {"wandb": "x"}


@pytest.mark.parametrize("text", ["", "[]", '{"trackers": 3}', "nonsense"])
def test_ids_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert read_remote_ids(str(tmp_path)) == {}


def test_a_tracker_hears_late_of_the_whole_run(tmp_path: Path) -> None:
    notes = Notes()
    assert replay(str(make_run(tmp_path / "r")), "notes", notes, timeout_s=30) == 0
    assert (notes.steps, notes.ends) == ([1, 2, 3], ["finished"])
    assert notes.run is not None
    assert (notes.run.name, notes.run.arguments, notes.run.run_id) == ("mine", {"seed": 1}, "r")
    assert read_remote_ids(str(tmp_path / "r")) == {"notes": "remote-7"}


def test_it_hears_only_what_it_missed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r")
    Path(cursor_path(str(folder), "notes")).write_text("3\n")
    notes = Notes()
    assert replay(str(folder), "notes", notes, timeout_s=30) == 0
    assert notes.steps == [3]
    assert notes.run is not None
    assert notes.run.resumed_step == 2


def test_what_a_resume_made_void_after_it_was_told_is_told_to_be_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r")
    Path(cursor_path(str(folder), "notes")).write_text("4\n")
    spool = Spool(str(folder))
    spool.append("resume", step=1)
    spool.append("log", step=2, data={"loss": 1.0})
    spool.close()
    notes = Notes()
    assert replay(str(folder), "notes", notes, timeout_s=30) == 0
    assert notes.steps == [2]
    assert notes.run is not None
    assert notes.run.resumed_step == 1


def test_a_second_replay_tells_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r")
    replay(str(folder), "notes", Notes(), timeout_s=30)
    notes = Notes()
    replay(str(folder), "notes", notes, timeout_s=30)
    assert (notes.steps, notes.ends) == ([], [])


def test_a_run_that_is_still_training_is_not_replayed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r")
    spool, notes = Spool(str(folder)), Notes()
    with pytest.raises(ConfigurationError, match="is still training"):
        replay(str(folder), "notes", notes, timeout_s=30)
    spool.close()
    assert replay(str(folder), "notes", notes, timeout_s=30) == 0
    assert notes.steps == [1, 2, 3]


def test_one_tracker_is_not_told_by_two_replays_at_once(tmp_path: Path) -> None:
    folder = str(make_run(tmp_path / "r"))

    class Replays(Notes):
        def finish(self, status: str, error: str | None) -> None:
            super().finish(status, error)
            assert replay(folder, "other", Notes(), timeout_s=30) == 0
            with pytest.raises(ConfigurationError, match="is being told to notes already"):
                replay(folder, "notes", Notes(), timeout_s=30)

    assert replay(folder, "notes", Replays(), timeout_s=30) == 0


def test_a_run_that_begins_during_a_replay_says_what_comes_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, tracking = str(make_run(tmp_path / "r")), Tracking({}, TrackingSettings())

    class Begins(Notes):
        def finish(self, status: str, error: str | None) -> None:
            tracking.begin(Run(run_id="r", folder=folder))
            tracking.end("finished", step=3)

    assert replay(folder, "notes", Begins(), timeout_s=30) == 0
    assert "told to a tracker by another process too" in caplog.text


def test_what_a_service_says_late_is_shown_without_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Says(Notes):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            raise ConnectionError(f"at https://x?key={os.environ['NOTES_API_KEY']}")

    monkeypatch.setenv("NOTES_API_KEY", "planted-key-0123")
    assert replay(str(make_run(tmp_path / "r")), "notes", Says(), timeout_s=0.05) > 0
    assert "cannot be told" in caplog.text
    assert "planted-key" not in caplog.text


def test_a_record_without_a_beginning_is_an_error(tmp_path: Path) -> None:
    Spool(str(tmp_path)).append("log", step=1)
    with pytest.raises(ConfigurationError, match="no event of a run's start"):
        described_run(str(tmp_path))
