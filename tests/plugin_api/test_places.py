"""What a record or a checkpoint of somebody else may not make a tracker read or write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.spool import Event
from hftrain.plugin_api.tracker import Artifact, Media, Run, Tracker


class Notes(Tracker):
    def __init__(self) -> None:
        self.paths: list[str] = []

    def log_media(self, media: Media) -> None:
        self.paths.append(media.path)

    def log_artifact(self, artifact: Artifact) -> None:
        self.paths.append(artifact.path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "runs" / "r"
    for place in (folder / "media", tmp_path / "out" / "checkpoint-1", tmp_path / "other"):
        place.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "other")
    return folder


def told(run: Path, type_: Any, path: str) -> list[str]:
    notes = Notes()
    data = {"name": "x", "kind": "text", "path": path}
    notes.deliver(Event(seq=1, time=0.0, type=type_, step=1, data=data), folder=str(run))
    return notes.paths


@pytest.mark.parametrize("type_", ["media", "artifact"])
@pytest.mark.parametrize("path", ["{top}/other", "../../../other", "link", "../r2"])
def test_what_lies_outside_of_the_runs_folder_is_not_told(run: Path, tmp_path: Path, type_: str, path: str) -> None:
    assert told(run, type_, path.format(top=tmp_path)) == []
    assert told(run, type_, "media") == [str(run / "media")]


def test_a_checkpoint_is_told_from_the_output_dir_alone(run: Path, tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "out" / "checkpoint-1")
    assert told(run, "checkpoint", checkpoint) == [checkpoint]
    assert told(run, "checkpoint", "s3://bucket/checkpoint-1") == ["s3://bucket/checkpoint-1"]
    assert told(run, "checkpoint", str(tmp_path / "other")) == []
    assert told(run, "checkpoint", f"file://{tmp_path / 'other'}") == []


def test_an_id_that_is_a_folder_is_taken_only_in_the_runs_places(tmp_path: Path) -> None:
    def taken(place: Path, *others: str) -> str | None:
        run = Run(
            run_id="r", output_dir=str(tmp_path / "out"), logging_dir=str(tmp_path / "logs"), remote_id=str(place)
        )
        return run.folder_of_id(*others)

    for inside in (tmp_path / "out" / "x", tmp_path / "logs"):
        assert taken(inside) == str(inside)
    assert taken(tmp_path / "out" / ".." / "home") is None
    assert taken(tmp_path / "outer") is None
    assert taken(tmp_path / "dvclive", str(tmp_path / "dvclive")) == str(tmp_path / "dvclive")
    assert Run(run_id="r", output_dir="out").folder_of_id() is None
