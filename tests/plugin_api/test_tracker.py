from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from hftrain.plugin_api.spool import Event, Type
from hftrain.plugin_api.tracker import Artifact, Media, Tracker, metric_name


class Notes(Tracker):
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.others: list[Any] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(metrics)))

    def log_media(self, media: Media) -> None:
        self.others.append(media)

    def log_artifact(self, artifact: Artifact) -> None:
        self.others.append(artifact)

    def finish(self, status: str, error: str | None) -> None:
        self.others.append((status, error))


def event(type_: Type, **data: Any) -> Event:
    return Event(seq=1, time=0.0, type=type_, step=7, data=data)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("loss", "train/loss"),
        ("eval_loss", "eval/loss"),
        ("test_accuracy", "test/accuracy"),
        ("eval_set_loss", "eval/set_loss"),
        ("train_runtime", "train/train_runtime"),
    ],
)
def test_a_metric_is_told_under_its_stage(name: str, told: str) -> None:
    assert metric_name(name) == told


def test_names_stay_where_the_service_wants_them_raw() -> None:
    class Raw(Notes):
        renames_metrics = False

    tracker = Raw()
    tracker.deliver(event("log", eval_loss=1.0))
    assert tracker.rows == [(7, {"eval_loss": 1.0})]


def test_what_is_no_number_is_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Notes()
    for _ in range(3):
        tracker.deliver(event("log", loss=1.0, note="good", none=None))
    assert tracker.rows == [(7, {"train/loss": 1.0})] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "Notes: note='good' is no number, and is not told.",
        "Notes: none=None is no number, and is not told.",
    ]


def test_nan_is_told_to_a_service_that_takes_it() -> None:
    tracker = Notes()
    tracker.deliver(event("log", loss="nan"))
    assert math.isnan(tracker.rows[0][1]["train/loss"])


def test_nan_is_kept_from_a_service_that_does_not() -> None:
    class Finite(Notes):
        takes_non_finite = False

    tracker = Finite()
    tracker.deliver(event("log", loss="inf", other=1.0))
    tracker.deliver(event("log", loss="nan"))
    assert tracker.rows == [(7, {"train/other": 1.0})]


def test_a_checkpoint_is_an_artifact_that_says_so() -> None:
    tracker = Notes()
    tracker.deliver(event("checkpoint", name="checkpoint-7", path="/", metadata={"loss": 1.0}))
    assert tracker.others == [
        Artifact(name="checkpoint-7", path="/", step=7, is_checkpoint=True, metadata={"loss": 1.0})
    ]


def test_media_and_the_end_reach_their_methods() -> None:
    tracker = Notes()
    tracker.deliver(event("media", name="sample", kind="text", path="/x.txt"))
    tracker.deliver(event("finish", status="failed", error="ValueError: no"))
    assert tracker.others == [
        Media(name="sample", kind="text", path="/x.txt", step=7),
        ("failed", "ValueError: no"),
    ]


def test_events_that_no_service_needs_reach_none() -> None:
    tracker = Notes()
    for type_ in ("start", "warning", "resume"):
        tracker.deliver(event(type_))
    assert (tracker.rows, tracker.others) == ([], [])


def test_a_checkpoint_that_was_deleted_before_its_turn_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Keeps(Tracker):
        def log_artifact(self, artifact: Artifact) -> None:
            raise AssertionError("there is nothing to keep")

    data = {"name": "checkpoint-1", "path": "/nowhere/checkpoint-1"}
    Keeps().deliver(Event(seq=1, time=0.0, type="checkpoint", step=1, data=data))
    assert "/nowhere/checkpoint-1 was removed before it was told" in caplog.text
