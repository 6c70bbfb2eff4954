from __future__ import annotations

import io
import json
import logging
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from hftrain.checkpoint.manager import CommittedCheckpoint
from hftrain.plugin_api.registry import registry
from hftrain.plugin_api.spool import read_events
from hftrain.trainer import run_copy
from hftrain.trainer.run_copy import RunCopy
from tests.checkpoint import s3
from tests.plugin_api.distributions import install
from tests.trainer.tasks import trainer
from tests.trainer.telling import NOTES

STEPS: dict[str, Any] = {"report_to": "notes", "max_steps": 4, "logging_steps": 1, "save_strategy": "steps"}


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tracker ``notes``, whose file this is; and a cache of this test's own."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "notes-of-a-test", plugins=["notes"], code=NOTES)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry.cache_clear()
    yield tmp_path / "notes"
    registry.cache_clear()
    sys.modules.pop("notes_of_a_test", None)


def rows(notes: Path, kind: str) -> list[list[Any]]:
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    return [row for row in found if row[0] == kind]


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    return s3.new_bucket() + "/run" if request.param == "s3" else f"memory://{uuid.uuid4().hex}/run"


def test_the_record_of_a_remote_run_lies_beside_its_checkpoints_too(url: str, tmp_path: Path) -> None:
    run = trainer(url, **STEPS, save_steps=2)
    run.train()
    with fsspec.open(f"{url}/runs/{run.run_id}/events.jsonl") as file:
        there = file.read()
    assert there == (tmp_path / "cache/hftrain/runs" / run.run_id / "events.jsonl").read_bytes()
    assert b'"finish"' in there


def test_a_fresh_machine_goes_on_with_the_record_and_the_remote_run(url: str, notes: Path, tmp_path: Path) -> None:
    trainer(url, **{**STEPS, "max_steps": 2}, save_steps=2).train()
    shutil.rmtree(tmp_path / "cache")
    run = trainer(url, **STEPS, save_steps=2)
    run.train(resume_from_checkpoint=True)
    assert rows(notes, "start")[-1][1:4] == [f"remote-{run.run_id}", 2, run.run_id]
    events = read_events(str(tmp_path / "cache/hftrain/runs" / run.run_id / "events.jsonl"))
    assert [event.step for event in events if event.type == "log" and "learning_rate" in event.data] == [1, 2, 3, 4]
    assert [row[1] for row in rows(notes, "log") if "train/learning_rate" in row[2]] == [1, 2, 3, 4]


def test_every_checkpoint_knows_the_remote_run(tmp_path: Path, notes: Path) -> None:
    run = trainer(tmp_path / "out", **STEPS, save_steps=2)
    run.train()
    documents = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("out/checkpoint-*/run.json"))]
    assert [document["remote_ids"] for document in documents] == [{"notes": f"remote-{run.run_id}"}] * 2


def test_a_lost_record_or_another_output_dir_goes_on_with_the_remote_run(tmp_path: Path, notes: Path) -> None:
    first = trainer(tmp_path / "out", **STEPS, save_steps=2)
    first.train()
    shutil.rmtree(tmp_path / "out" / "runs")
    for folder in ("out", "other"):
        trainer(tmp_path / folder, **STEPS, save_steps=2).train(str(tmp_path / "out" / "checkpoint-2"))
    assert [row[1:3] for row in rows(notes, "start")][1:] == [[f"remote-{first.run_id}", 2]] * 2


def test_the_copy_of_a_store_that_is_away_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from hftrain.trainer.run_copy import RunCopy

    class Away:
        def write(self, path: str, chunks: Any) -> None:
            raise OSError("away")

    (tmp_path / "events.jsonl").write_text("{}\n")
    copy = RunCopy(str(tmp_path), f"memory://{uuid.uuid4().hex}")
    copy._storage = Away()  # type: ignore[assignment]
    copy.start()
    copy.copy_soon()
    copy.close(timeout_s=10)
    copy._copy()
    assert len([one for one in caplog.records if "cannot be copied" in one.message]) == 1


def test_a_listener_that_raises_leaves_the_save_and_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.checkpoint.kit import manager

    def broken(committed: CommittedCheckpoint) -> None:
        raise RuntimeError("no ears")

    checkpoints, heard = manager(tmp_path), []
    checkpoints.listeners += [broken, lambda committed: heard.append(committed.step)]
    checkpoints.save(1, [], epoch=0.0, samples=0)
    assert heard == [1]
    assert [one.levelno for one in caplog.records if "no ears" in one.message] == [logging.WARNING]


def test_a_store_that_stops_answering_leaves_the_record_here_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"what is here")
    with fsspec.open(f"memory://cut/runs/{tmp_path.name}/events.jsonl", "wb") as file:
        file.write(b"what is there, and goes further")
    copy = RunCopy(str(tmp_path), "memory://cut")
    monkeypatch.setattr(copy._storage, "read", lambda path: Cut())
    with pytest.raises(OSError, match="cut"):
        copy.fetch()
    assert (tmp_path / "events.jsonl").read_bytes() == b"what is here"


class Cut(io.BytesIO):
    """A connection that ends when something is read."""

    def read(self, size: int | None = -1) -> bytes:
        raise OSError("cut")


def test_a_large_file_is_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_copy, "_CHUNK_BYTES", 4)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model").write_bytes(b"0123456789")
    sizes: list[int] = []
    copy = RunCopy(str(folder), "memory://pieces")
    monkeypatch.setattr(copy._storage, "write", lambda path, chunks: sizes.extend(map(len, chunks)))
    copy._copy()
    assert sizes == [4, 4, 2]


def test_only_the_record_and_the_cursors_are_brought_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, root = tmp_path / "alone" / "run", f"memory://{uuid.uuid4().hex}"
    copy = RunCopy(str(folder), root)
    names = ["events.jsonl", "run.json", "x.cursor", "artifacts/model", "media/x.cursor", "../up.cursor"]
    copy._storage = Store(names)  # type: ignore[assignment]
    monkeypatch.setattr(run_copy, "walk", lambda storage, _: [(name, Entry()) for name in storage.names])
    copy.fetch()
    assert sorted(path.name for path in folder.parent.glob("**/*")) == [
        "events.jsonl",
        "run",
        "run.json",
        "x.cursor",
    ]


class Entry:
    num_bytes = 7


class Store:
    """Holds files of these names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def read(self, path: str) -> io.BytesIO:
        return io.BytesIO(b"content")
