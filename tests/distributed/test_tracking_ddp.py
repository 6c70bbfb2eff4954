"""Two processes: one reports, and a tracker that does not start stops both alike."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hftrain.errors import ConfigurationError
from tests.distributed.launch import launch
from tests.plugin_api.distributions import install
from tests.trainer.tasks import trainer
from tests.trainer.telling import NOTES

pytestmark = pytest.mark.slow


def train(folder: str, trial: str | None) -> Any:
    run = trainer(folder, report_to="notes", max_steps=4, logging_steps=2, log_on_each_node=True)
    if trial is not None:
        run.state.trial_name = trial
        if run._tracking is not None:
            from hftrain.trainer.tracking import run_of

            return [run_of(run).trial, run_of(run).group]
        return None
    try:
        run.train()
    except ConfigurationError as error:
        return str(error)
    return [run.state.global_step, run._tracking is not None]


def environment(tmp_path: Path, code: str) -> dict[str, str]:
    install(tmp_path / "site", "notes-of-a-test", plugins=["notes"], code=code)
    paths = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    return {"NOTES": str(tmp_path / "notes"), "PYTHONPATH": paths}


def test_only_the_first_process_reports(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    found = launch(train, str(tmp_path / "out"), None, env=environment(tmp_path, NOTES))
    assert found == [[4, True], [4, False]]
    rows = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert [row[0] for row in rows] == ["start", "log", "log", "log", "finish"]
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1


def test_a_tracker_that_does_not_start_is_the_same_error_on_both(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    code = NOTES.replace(
        "def start(self, run):", "def start(self, run):\n        raise PermissionError('set NOTES_KEY')"
    )
    found = launch(train, str(tmp_path / "out"), None, env=environment(tmp_path, code))
    assert found[0] == found[1]
    assert "notes: PermissionError: set NOTES_KEY" in found[0]


def test_a_trial_is_grouped_and_reported_by_the_first_process_only(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    found = launch(train, str(tmp_path / "out"), "trial-3", env=environment(tmp_path, NOTES))
    assert found == [["trial-3", str(tmp_path / "out")], None]  # run_name, which is output_dir where nobody set it
