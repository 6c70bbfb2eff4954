from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.spool import read_events
from tests.distributed.launch import ROOT, launch
from tests.plugin_api.distributions import install
from tests.trainer.tasks import trainer

pytestmark = pytest.mark.slow

TRACKER = """
from hftrain.plugin_api.tracker import Tracker

class Plugin(Tracker):
    api, requires, extra = 1, (), ""
"""


def shows(folder: str) -> int:
    """Every rank shows something and keeps something, in the middle of a run; returns how often this one did."""
    from hftrain import TrainerCallback

    calls = 0

    class Shows(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            run.log_media("weights", list(run.model.parameters())[0], kind="histogram")
            run.log_artifacts(__file__)

    run = trainer(folder, report_to="silent", max_steps=2, callbacks=[Shows()])
    run.train()
    return calls


def test_every_rank_may_show_and_one_reports(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(site, "silent-of-a-test", plugins=["silent"], code=TRACKER)
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    assert launch(shows, str(tmp_path / "out"), env={"PYTHONPATH": path}) == [2, 2]
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    events = list(read_events(str(folder / "events.jsonl")))
    assert [(event.type, event.step) for event in events if event.type in ("media", "artifact")] == [
        ("media", 1),
        ("artifact", 1),
        ("media", 2),
        ("artifact", 2),
    ]
    assert len(list((folder / "media").iterdir())) == 2
    assert next(event.data["environment"]["num_processes"] for event in events if event.type == "start") == 2
