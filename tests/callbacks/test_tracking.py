from __future__ import annotations

import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.errors import ConfigurationError, PluginError
from hftrain.plugin_api.spool import Event, read_events
from hftrain.plugin_api.tracker import Artifact, Run, Tracker
from hftrain.plugin_api.worker import Delivery
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState


class Notes(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ends: list[tuple[str, str | None]] = []
        self.artifacts: list[Artifact] = []
        self.is_away = False
        self.tried = threading.Event()

    def start(self, run: Run) -> str | None:
        self.runs.append(run)
        return "remote-7"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.tried.set()
        if self.is_away:
            raise ConnectionError("nobody is there")
        self.rows.append((step, dict(metrics)))

    def log_artifact(self, artifact: Artifact) -> None:
        self.artifacts.append(artifact)

    def finish(self, status: str, error: str | None) -> None:
        self.ends.append((status, error))


class Refuses(Tracker):
    def start(self, run: Run) -> str | None:
        raise PermissionError("no key: set REFUSES_KEY")


def run_in(folder: Path, **changes: Any) -> Run:
    return Run(run_id="r", folder=str(folder), output_dir=str(folder), **changes)


def state_at(step: int, epoch: float | None = None) -> TrainerState:
    return TrainerState(global_step=step, epoch=epoch)


def tracking_of(**trackers: Callable[[], Tracker]) -> Tracking:
    return Tracking(trackers, TrackingSettings(close_s=30))


def join_the_ends() -> None:
    """Wait for what the collector began to end."""
    for thread in threading.enumerate():
        if thread.name == "hftrain-end-of-run":
            thread.join(30)


def test_rows_reach_the_tracker_with_their_step(tmp_path: Path) -> None:
    notes = Notes()
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path))
    tracking.on_log(None, state_at(5, 0.5), TrainerControl(), {"loss": 1.5, "epoch": 0.5})
    tracking.end("finished", step=5)
    assert notes.rows == [(5, {"train/loss": 1.5})]
    assert notes.ends == [("finished", None)]


def test_everything_is_in_the_spool_whether_or_not_a_tracker_takes_it(tmp_path: Path) -> None:
    tracking = tracking_of()
    tracking.begin(run_in(tmp_path, arguments={"seed": 1}))
    tracking.on_log(None, state_at(5), TrainerControl(), {"loss": float("nan")})
    tracking.end("failed", step=5, error=ValueError("no"))
    events = [(event.type, event.step) for event in read_events(str(tmp_path / "events.jsonl"))]
    assert events == [("start", 0), ("log", 5), ("finish", 5)]


def test_the_failure_is_told_with_its_text(tmp_path: Path) -> None:
    notes = Notes()
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path))
    tracking.end("failed", step=0, error=ValueError("no"))
    assert notes.ends == [("failed", "ValueError: no")]


def test_a_committed_checkpoint_is_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    notes = Notes()
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path))
    tracking.on_save(None, state_at(6), TrainerControl(), checkpoint=os.path.relpath(tmp_path / "checkpoint-5"))
    tracking.end("finished", step=5)
    path = str(tmp_path / "checkpoint-5")  # told later it may be read from another folder
    assert notes.artifacts == [Artifact(name="checkpoint-5", path=path, step=5, is_checkpoint=True)]


def test_a_resumed_run_gets_the_id_that_it_was_given(tmp_path: Path) -> None:
    first, second = Notes(), Notes()
    tracking = tracking_of(notes=lambda: first)
    tracking.begin(run_in(tmp_path))
    tracking.end("interrupted", step=3)
    tracking = tracking_of(notes=lambda: second)
    tracking.begin(run_in(tmp_path, resumed_step=2))
    tracking.end("finished", step=3)
    assert (first.runs[0].remote_id, second.runs[0].remote_id) == (None, "remote-7")
    assert second.runs[0].resumed_step == 2
    assert json.loads((tmp_path / "run.json").read_text()) == {"run_id": "r", "trackers": {"notes": "remote-7"}}


def test_secrets_reach_neither_a_tracker_nor_the_disk(tmp_path: Path) -> None:
    notes = Notes()
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=30, secrets=("hf_abc",)))
    tracking.begin(run_in(tmp_path, arguments={"hub_token": "x1y2", "url": "https://hf_abc@host"}))
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0, "note": "hf_abc"})
    tracking.end("failed", step=1, error=ValueError("at hf_abc"))
    assert notes.runs[0].arguments == {"hub_token": "***", "url": "https://***@host"}
    assert notes.ends == [("failed", "ValueError: at ***")]
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "hf_abc" not in written
    assert "x1y2" not in written


def test_a_named_tracker_that_does_not_start_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    tracking = tracking_of(refuses=Refuses, notes=Notes)
    with pytest.raises(ConfigurationError, match="refuses: PermissionError: no key: set REFUSES_KEY"):
        tracking.begin(run_in(tmp_path))
    assert not tracking.is_begun


def test_one_that_nobody_named_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    trackers: dict[str, Callable[[], Tracker]] = {"refuses": Refuses, "notes": lambda: notes}
    tracking = Tracking(trackers, TrackingSettings(close_s=30, is_by_default=True))
    tracking.begin(run_in(tmp_path))
    tracking.end("finished", step=0)
    assert "refuses: PermissionError: no key: set REFUSES_KEY" in caplog.text
    assert notes.ends == [("finished", None)]


def test_what_a_dead_tracker_missed_is_named_with_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    notes.is_away = True
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=0.05))
    tracking.begin(run_in(tmp_path))
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0})
    tracking.end("finished", step=1)
    assert f"Run: hftrain replay {tmp_path} --to notes" in caplog.text


def test_an_outage_stops_the_run_of_who_asked_for_that(tmp_path: Path) -> None:
    notes = Notes()
    notes.is_away = True
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=0.05, raises=True))
    tracking.begin(run_in(tmp_path))
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0})
    while tracking._deliveries[0].failure is None:
        notes.tried.wait()
    with pytest.raises(PluginError, match="'notes' cannot be told .ConnectionError: nobody is there"):
        tracking.on_log(None, state_at(2), TrainerControl(), {"loss": 1.0})
    tracking.end("failed", step=2)


def test_a_row_after_the_run_goes_on_with_it(tmp_path: Path) -> None:
    notes = Notes()
    settings = TrackingSettings(close_s=30)
    tracking = Tracking({"notes": lambda: notes}, settings, run_of=lambda: run_in(tmp_path, resumed_step=5))
    tracking.begin(run_in(tmp_path))
    tracking.end("finished", step=5)
    tracking.on_log(None, state_at(5), TrainerControl(), {"eval_loss": 1.0})
    del tracking
    gc.collect()
    join_the_ends()
    assert notes.rows == [(5, {"eval/loss": 1.0})]
    assert notes.runs[1].remote_id == "remote-7"
    assert notes.ends == [("finished", None)] * 2


def test_a_full_disk_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path))
    assert tracking._spool is not None
    tracking._spool.close()
    for step in (1, 2):
        tracking.on_log(None, state_at(step), TrainerControl(), {"loss": 1.0})
    tracking.end("finished", step=2)
    assert [step for step, _ in notes.rows] == [1, 2]
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1


def test_ids_that_a_checkpoint_kept_are_used_where_the_runs_folder_has_none(tmp_path: Path) -> None:
    notes = Notes()
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path), remote_ids={"notes": "from-checkpoint"})
    assert tracking.remote_ids == {"notes": "remote-7"}  # what it answered counts from now on
    tracking.end("finished", step=0)
    assert notes.runs[0].remote_id == "from-checkpoint"


def test_a_constructor_that_raises_is_a_start_that_failed(tmp_path: Path) -> None:
    def broken() -> Tracker:
        raise RuntimeError("no constructor")

    with pytest.raises(ConfigurationError, match="broken: RuntimeError: no constructor"):
        tracking_of(broken=broken).begin(run_in(tmp_path))


def test_those_that_did_start_hear_that_the_run_failed_where_another_did_not(tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(ConfigurationError, match="set REFUSES_KEY"):
        tracking_of(notes=lambda: notes, refuses=Refuses).begin(run_in(tmp_path))
    assert notes.ends[0][0] == "failed"


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    (tmp_path / "file").write_text("")
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path / "file" / "runs"))
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0})
    tracking.end("finished", step=1)
    assert notes.rows == [(1, {"train/loss": 1.0})]
    assert [one.levelname for one in caplog.records if "cannot be written" in one.message] == ["WARNING"]


def test_a_row_after_the_run_raises_nothing_when_a_tracker_does_not_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrackingSettings(close_s=30)
    tracking = Tracking({"refuses": Refuses}, settings, run_of=lambda: run_in(tmp_path, resumed_step=5))
    tracking.on_log(None, state_at(5), TrainerControl(), {"eval_loss": 1.0})
    tracking.on_log(None, state_at(5), TrainerControl(), {"eval_loss": 2.0})
    tracking.end("finished", step=5)
    assert f"hftrain replay {tmp_path} --to refuses" in caplog.text
    assert [event.type for event in read_events(str(tmp_path / "events.jsonl"))][-3:] == ["log", "log", "finish"]


def test_the_end_that_a_tracker_was_not_told_is_an_error_for_who_asked_for_that(tmp_path: Path) -> None:
    class NoEnd(Notes):
        def finish(self, status: str, error: str | None) -> None:
            raise ConnectionError("away")

    tracking = Tracking({"no_end": NoEnd}, TrackingSettings(close_s=0.05, raises=True))
    tracking.begin(run_in(tmp_path))
    with pytest.raises(PluginError, match="no_end was not told the end of the run"):
        tracking.end("finished", step=1)


class Broken(Notes):
    def watches(self) -> tuple[str, ...]:
        raise KeyError("an author's mistake")

    def takes_final_model(self) -> bool:
        raise KeyError("an author's mistake")


def test_a_tracker_that_cannot_say_what_it_wants_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tracking = tracking_of(broken=Broken)
    assert (tracking.watched(), tracking.takes_final_model()) == (frozenset(), False)
    assert "broken does not say what it wants (KeyError" in caplog.text


def test_rows_of_several_threads_all_reach_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Tracking, "_append", lambda self, *a, append=Tracking._append, **k: _late(append(self, *a, **k))
    )
    notes = Notes()
    tracking = tracking_of(notes=lambda: notes)
    tracking.begin(run_in(tmp_path))
    threads = [
        threading.Thread(target=tracking.report, args=("log",), kwargs={"step": step, "data": {"loss": 1.0}})
        for step in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracking.end("finished", step=20)
    assert sorted(step for step, _ in notes.rows) == list(range(20))


def _late(event: Event) -> Event:
    """Return the event, an odd one after a while, in which others go past it."""
    time.sleep(0.01 * (event.seq % 2))
    return event


def test_an_interrupt_at_the_start_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Delivery, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Delivery, "wait_for_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracking_of(one=Notes, two=Notes).begin(run_in(tmp_path))
    left = [thread for thread in threading.enumerate() if thread.name in ("hftrain-one", "hftrain-two")]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left)


def test_a_trainer_that_is_forgotten_in_a_trackers_thread_ends_its_run(tmp_path: Path) -> None:
    class Collects(Notes):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            finalizer()
            super().log(metrics, step)

    notes = Collects()
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=30), run_of=lambda: run_in(tmp_path))
    begun = threading.Event()
    finalizer = lambda: begun.wait(30) and tracking._finalizer()  # noqa: E731
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0})
    thread = tracking._deliveries[0]._thread
    begun.set()
    assert thread is not None
    thread.join(30)
    assert (notes.rows, notes.ends) == ([(1, {"train/loss": 1.0})], [("finished", None)])


def test_a_folder_called_as_a_password_is_is_still_found(tmp_path: Path) -> None:
    notes = Notes()
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=30, secrets=("training",)))
    tracking.begin(run_in(tmp_path))
    place = tmp_path / "training" / "checkpoint-2"
    place.mkdir(parents=True)
    tracking.on_save(None, state_at(2), TrainerControl(), checkpoint=str(place))
    tracking.end("finished", step=2)
    assert [one.path for one in notes.artifacts] == [str(place)]


class Hangs(Notes):
    """Takes the end when the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def finish(self, status: str, error: str | None) -> None:
        self.gate.wait(30)
        super().finish(status, error)


def test_nobody_waits_for_the_end_of_a_run_that_the_collector_ends(tmp_path: Path) -> None:
    notes = Hangs()
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=30), run_of=lambda: run_in(tmp_path))
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0})
    tracking._finalizer()
    assert notes.ends == []  # with a wait here, the gate would have stayed shut
    (thread,) = [one for one in threading.enumerate() if one.name == "hftrain-end-of-run"]
    assert not thread.daemon
    notes.gate.set()
    thread.join(30)
    assert notes.ends == [("finished", None)]


def test_a_run_that_goes_on_waits_for_the_end_that_the_collector_began(tmp_path: Path) -> None:
    notes = Hangs()
    tracking = Tracking({"notes": lambda: notes}, TrackingSettings(close_s=30), run_of=lambda: run_in(tmp_path))
    tracking.on_log(None, state_at(1), TrainerControl(), {"loss": 1.0})
    tracking._finalizer()
    threading.Timer(0.05, notes.gate.set).start()
    following = tracking_of()
    following.begin(run_in(tmp_path))
    following.end("finished", step=1)
    assert notes.ends == [("finished", None)]
    numbers = [event.seq for event in read_events(str(tmp_path / "events.jsonl"))]
    assert numbers == sorted(set(numbers))
