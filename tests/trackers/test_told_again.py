from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hftrain.plugin_api.spool import Spool
from hftrain.plugin_api.tracker import Run
from hftrain_integrations._told_again import TellsAgain


class Notes(TellsAgain):
    """Notes the steps that it is told."""

    def __init__(self, run: Run) -> None:
        self.steps: list[int] = []
        self._tell_again(run)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step == 2 and self.steps == [1]:
            self.steps.append(-2)
            raise OSError("this once")
        self.steps.append(step)


def told(folder: Path, *, ended: bool) -> Notes:
    """Have a run of three steps go on from the second, and tell one more row; the first process ended it, or not."""
    spool = Spool(str(folder))
    spool.append("start", step=0)
    for step in (1, 2, 3):
        spool.append("log", step=step, data={"loss": 1.0})
    if ended:
        spool.append("finish", step=3, data={"status": "failed"})
    spool.append("resume", step=2)
    spool.append("start", step=2)
    row = spool.append("log", step=3, data={"loss": 0.5})
    spool.close()
    tracker = Notes(Run(run_id="r", folder=str(folder), resumed_step=2))
    while True:
        try:
            tracker.deliver(row)
        except OSError:
            continue
        return tracker


def test_what_a_killed_process_told_is_told_again_up_to_the_step_it_goes_on_from(tmp_path: Path) -> None:
    assert [step for step in told(tmp_path, ended=False).steps if step > 0] == [1, 2, 3]


def test_a_row_that_is_refused_while_it_is_told_again_comes_again(tmp_path: Path) -> None:
    assert told(tmp_path, ended=False).steps == [1, -2, 2, 3]


def test_a_process_that_ended_its_run_has_told_everything(tmp_path: Path) -> None:
    assert told(tmp_path, ended=True).steps == [3]
