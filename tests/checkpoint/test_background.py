"""A save in the background: committed by its thread, told of once, tried twice, and stopped when nobody wants it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hftrain.checkpoint.background import InBackground
from hftrain.checkpoint.catalog import Status, inspect_folder
from hftrain.checkpoint.contents import rng_part
from hftrain.checkpoint.manager import CheckpointManager
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import CheckpointError
from hftrain.hardware.notes import OwnNotes
from tests.checkpoint.kit import manager, parts, save, thread_ranks
from tests.checkpoint.slow import SlowDisk

WEIGHTS = "model.safetensors"


def start(checkpoints: CheckpointManager, step: int, notes: Any = None, best: str | None = None) -> None:
    how = InBackground(notes=notes or OwnNotes(), best=lambda: best)
    with checkpoints.background.asked_for(how):
        begun = checkpoints.begin(step, epoch=step / 10, samples=step * 4)
        assert begun is not None
        with begun:
            begun.write([*parts(step), rng_part({"step": step})])


def status(folder: Path, step: int) -> Status:
    return inspect_folder(LocalStorage(), str(folder / f"checkpoint-{step}")).status


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_torn_until_its_thread_committed_it(tmp_path: Path) -> None:
    disk = SlowDisk(held=WEIGHTS)
    checkpoints = manager(tmp_path, storage=disk)
    start(checkpoints, 1)
    assert disk.begun.wait(30)
    assert (status(tmp_path, 1), checkpoints.background.outcome(1)) == (Status.TORN, None)
    disk.open.set()
    outcome = checkpoints.background.outcome(2, wait=True)
    assert outcome is not None
    assert (outcome.folder, outcome.error) == (str(tmp_path / "checkpoint-1"), None)
    assert status(tmp_path, 1) is Status.COMMITTED
    assert checkpoints.background.outcome(3) is None


def test_it_is_the_checkpoint_that_would_have_been_written_at_once(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path / "later")
    start(checkpoints, 1)
    checkpoints.background.raise_outcome()
    manager(tmp_path / "now").save(1, [*parts(1), rng_part({"step": 1})], epoch=0.1, samples=4)
    later, now = (json.loads((tmp_path / name / "checkpoint-1/MANIFEST.json").read_text()) for name in ("later", "now"))
    assert later.pop("created") != now.pop("created")
    assert later == now


@pytest.mark.parametrize("next_act", ["save", "begin", "clean up", "retain"])
def test_whatever_comes_next_waits_for_it(next_act: str, tmp_path: Path) -> None:
    disk = SlowDisk(held=WEIGHTS)
    checkpoints = manager(tmp_path, storage=disk)
    start(checkpoints, 1)
    threading.Timer(0.05, disk.open.set).start()
    acts: dict[str, Callable[[], object]] = {
        "save": lambda: save(checkpoints, 2),
        "begin": lambda: checkpoints.begin(2, epoch=0.2, samples=8),
        "clean up": checkpoints.clean_up,
        "retain": checkpoints.retain,
    }
    acts[next_act]()
    assert status(tmp_path, 1) is Status.COMMITTED


def test_what_is_surplus_goes_after_its_commit_and_never_the_best(tmp_path: Path) -> None:
    disk = SlowDisk(held=WEIGHTS)
    disk.open.set()
    checkpoints = manager(tmp_path, storage=disk, save_total_limit=2)
    for step in (1, 2, 3):
        save(checkpoints, step, best="checkpoint-1")
    disk.open.clear()
    start(checkpoints, 4, best="checkpoint-1")
    assert disk.begun.wait(30)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    disk.open.set()
    checkpoints.background.raise_outcome()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]


def test_listeners_are_told_at_the_commit_in_the_thread_that_writes(tmp_path: Path) -> None:
    checkpoints, heard = manager(tmp_path), []
    checkpoints.listeners.append(lambda committed: heard.append((committed.step, threading.current_thread().name)))
    save(checkpoints, 1)
    start(checkpoints, 2)
    checkpoints.background.raise_outcome()
    assert heard == [(1, "MainThread"), (2, "hftrain-checkpoint")]


@pytest.mark.parametrize("refused", [WEIGHTS, "MANIFEST.json"])
def test_a_disk_that_refuses_once_is_asked_once_more(
    refused: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = manager(tmp_path, storage=SlowDisk(refused=refused, num_refusals=1))
    start(checkpoints, 1)
    checkpoints.background.raise_outcome()
    assert "It is tried once more" in caplog.text
    assert checkpoints.open(f"{tmp_path}/checkpoint-1").model()["weight"].item() == 1


@pytest.mark.parametrize("refused", [WEIGHTS, "MANIFEST.json"])
def test_one_that_refuses_twice_is_an_error_with_its_cause_and_nothing_is_left(refused: str, tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, storage=SlowDisk(refused=refused, num_refusals=2))
    start(checkpoints, 1)
    with pytest.raises(CheckpointError, match=r"could not be written.*Input/output error") as caught:
        checkpoints.background.raise_outcome()
    assert isinstance(caught.value.__cause__, OSError)
    assert names(tmp_path) == []
    start(checkpoints, 2)
    checkpoints.background.raise_outcome()
    assert status(tmp_path, 2) is Status.COMMITTED


def test_a_write_that_is_stopped_is_absent_and_its_thread_ends(tmp_path: Path) -> None:
    disk = SlowDisk(held=WEIGHTS)
    checkpoints = manager(tmp_path, storage=disk)
    start(checkpoints, 1)
    assert disk.begun.wait(30)
    threading.Timer(0.05, disk.open.set).start()
    checkpoints.background.stop(patience_s=0.0)
    assert not any(thread.name == "hftrain-checkpoint" for thread in threading.enumerate())
    assert status(tmp_path, 1) is not Status.COMMITTED


def with_two_ranks(folder: Path, work: Callable[[CheckpointManager, OwnNotes], Any], disks: list[SlowDisk]) -> Any:
    notes = OwnNotes()
    with ThreadPoolExecutor(2) as pool:
        managers = [manager(folder, ranks=rank, storage=disks[rank.process_index]) for rank in thread_ranks(2)]
        return list(pool.map(lambda checkpoints: work(checkpoints, notes), managers))


def test_rank_zero_commits_when_all_have_written_and_all_hear_of_it_after_the_same_step(tmp_path: Path) -> None:
    disks = [SlowDisk(), SlowDisk(held="rng-1.json")]

    def work(checkpoints: CheckpointManager, notes: OwnNotes) -> int:
        start(checkpoints, 1, notes)
        for step in range(2, 10_000_000):
            if step == 4:
                assert status(tmp_path, 1) is Status.TORN
                disks[1].open.set()
            outcome = checkpoints.background.outcome(step)
            if outcome is not None:
                assert outcome.error is None
                return step
        raise AssertionError("never heard")

    first, second = with_two_ranks(tmp_path, work, disks)
    assert first == second >= 4
    assert checkpoint_files(tmp_path) >= {"rng-0.json", "rng-1.json", WEIGHTS}


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_on_one_rank_is_an_error_on_all(failing: int, tmp_path: Path) -> None:
    disks = [SlowDisk(refused=f"rng-{rank}.json", num_refusals=2 * (rank == failing)) for rank in range(2)]

    def work(checkpoints: CheckpointManager, notes: OwnNotes) -> str:
        start(checkpoints, 1, notes)
        with pytest.raises(CheckpointError) as caught:
            checkpoints.background.raise_outcome()
        return str(caught.value)

    assert all("Input/output error" in text for text in with_two_ranks(tmp_path, work, disks))
    assert names(tmp_path) == []


def test_what_failed_goes_when_the_other_ranks_write_no_more(tmp_path: Path) -> None:
    disks = [SlowDisk(refused=WEIGHTS, num_refusals=2), SlowDisk(held="rng-1.json")]

    def work(checkpoints: CheckpointManager, notes: OwnNotes) -> None:
        start(checkpoints, 1, notes)
        threading.Timer(1.0, disks[1].open.set).start()  # when the first rank has tried twice
        with pytest.raises(CheckpointError):
            checkpoints.background.raise_outcome()

    with_two_ranks(tmp_path, work, disks)
    assert names(tmp_path) == []


def test_notes_are_taken_away_with_the_next_save(tmp_path: Path) -> None:
    notes = OwnNotes()
    checkpoints = manager(tmp_path)
    for step in (1, 2, 3):
        start(checkpoints, step, notes)
        checkpoints.background.raise_outcome()
    assert len(notes._texts) == 2  # of the last one


def checkpoint_files(folder: Path) -> set[str]:
    return set(json.loads((folder / "checkpoint-1/MANIFEST.json").read_text())["files"])
