"""A reported run that is killed with SIGKILL goes on in the same remote run, and its record has every step once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.spool import read_events, valid_events
from tests.plugin_api.distributions import install
from tests.trainer.telling import NOTES

SCRIPT = Path(__file__).with_name("train_told.py")

pytestmark = pytest.mark.slow


def run(folder: Path, *options: str) -> int:
    root = SCRIPT.parents[2]
    paths = os.pathsep.join(
        [str(root), str(root / "integrations"), str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    )
    environment = {**os.environ, "PYTHONPATH": paths, "NOTES": str(folder / "notes"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder / "out"), *options]
    return subprocess.run(command, check=False, env=environment, cwd=folder).returncode


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed after step 7, with a checkpoint of step 4, then run to its end."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "site").mkdir()
    install(folder / "site", "notes-of-a-test", plugins=["notes"], code=NOTES)
    record = "record = hftrain_integrations.local_tracker:LocalTracker"
    install(folder / "site", "record-of-a-test", plugins=[record])
    assert run(folder, "7") == -signal.SIGKILL
    with open(next(folder.glob("out/runs/*/events.jsonl")), "ab") as file:
        file.write(b'{"v":1,"seq":')  # as a kill in the middle of a write leaves it
    assert run(folder) == 0
    return folder


def told(folder: Path, kind: str) -> list[list[Any]]:
    rows = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    return [row for row in rows if row[0] == kind]


def test_it_goes_on_in_the_same_remote_run(killed: Path) -> None:
    first, second = told(killed, "start")
    assert (first[1], first[2]) == (None, None)
    assert (second[1], second[2]) == (f"remote-{first[3]}", 4)
    assert len(list((killed / "out" / "runs").iterdir())) == 1


def test_the_record_has_every_step_once_and_numbers_that_rise(killed: Path) -> None:
    spool = str(next(killed.glob("out/runs/*/events.jsonl")))
    numbers = [event.seq for event in read_events(spool)]
    assert numbers == list(range(1, len(numbers) + 1))
    rows = [event for event in valid_events(read_events(spool)) if "learning_rate" in event.data]
    assert [event.step for event in rows] == list(range(1, 13))


def test_the_tracker_was_told_the_steps_that_were_trained_again_after_it_heard_of_the_resume(killed: Path) -> None:
    steps = [row[1] for row in told(killed, "log") if "train/learning_rate" in row[2]]
    assert steps == [*range(1, 7), *range(5, 13)] or steps == [*range(1, 8), *range(5, 13)]
    assert [row[1] for row in told(killed, "finish")] == ["finished"]
