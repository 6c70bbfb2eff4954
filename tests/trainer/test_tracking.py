from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import TrainerCallback
from hftrain.checkpoint.layout import is_run_id
from hftrain.errors import (
    CallbackError,
    ConfigurationError,
    PluginBrokenError,
    PluginNotFoundError,
    PluginUnavailableError,
)
from hftrain.plugin_api.registry import registry
from hftrain.trainer import tracking
from tests.plugin_api.distributions import PLUGIN, install
from tests.trainer.tasks import Fit, trainer

TRACKER = """
from hftrain.plugin_api.tracker import Tracker

class Plugin(Tracker):
    api, requires, extra = 1, (), ""
    told = []

    def start(self, run):
        self.told.append(("start", run))
        return "remote-7"

    def log(self, metrics, step):
        self.told.append(("log", step, dict(metrics)))

    def log_artifact(self, artifact):
        self.told.append(("artifact", artifact.step, artifact.path))

    def finish(self, status, error):
        self.told.append(("finish", status, error))
"""


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs the tracker ``notes``, or another one."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(name: str = "notes", code: str = TRACKER) -> None:
        install(site, f"{name}-of-a-test", plugins=[name], code=code)
        registry.cache_clear()

    yield put
    registry.cache_clear()
    for file in site.glob("*.py"):
        sys.modules.pop(file.stem, None)


def told(run: Any) -> list[tuple[Any, ...]]:
    """What the tracker of this Trainer was told."""
    rows: list[tuple[Any, ...]] = run._tracking._trackers["notes"].told
    return rows


def test_a_run_is_told_from_its_beginning_to_its_end(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell()
    run = trainer(tmp_path, report_to="notes", max_steps=4, logging_steps=2, save_strategy="steps", save_steps=4)
    run.train()
    kinds = [row[0] for row in told(run)]
    assert kinds == ["start", "log", "log", "artifact", "log", "finish"]
    assert [row[1] for row in told(run) if row[0] == "log"] == [2, 4, 4]
    assert told(run)[1][2].keys() == {"train/loss", "train/grad_norm", "train/learning_rate"}
    assert told(run)[-1] == ("finish", "finished", None)


@pytest.mark.parametrize("save_async", [False, True])
def test_each_checkpoint_is_told_once_however_it_is_written(
    tmp_path: Path, tell: Callable[..., None], save_async: bool
) -> None:
    tell()
    run = trainer(tmp_path, report_to="notes", max_steps=4, save_strategy="steps", save_steps=2, save_async=save_async)
    run.train()
    assert [row[1] for row in told(run) if row[0] == "artifact"] == [2, 4]


def test_the_tracker_knows_the_arguments_the_task_and_the_run(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell()
    run = trainer(tmp_path, Fit(hidden=8), report_to="notes", max_steps=1, run_name="first try", seed=7)
    run.train()
    facts = told(run)[0][1]
    assert (facts.name, facts.run_id, facts.arguments["seed"]) == ("first try", run.run_id, 7)
    assert facts.model == {"task": "Fit", "hidden": 8}


def test_the_rows_are_in_the_run_folder(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell()
    run = trainer(tmp_path, report_to="notes", max_steps=2, logging_steps=1)
    run.train()
    lines = (tmp_path / "runs" / run.run_id / "events.jsonl").read_text().splitlines()
    losses = [json.loads(line)["data"]["loss"] for line in lines if "learning_rate" in json.loads(line)["data"]]
    assert losses == [row["loss"] for row in run.state.log_history if "learning_rate" in row]


def test_a_resumed_run_goes_on_with_the_remote_run(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell()
    settings = {"report_to": "notes", "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer(tmp_path, **settings).train()
    run = trainer(tmp_path, **settings)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    facts = [row[1] for row in told(run) if row[0] == "start"][-1]
    assert (facts.remote_id, facts.resumed_step) == ("remote-7", 2)


def test_an_evaluation_after_the_run_belongs_to_it(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell()
    run = trainer(tmp_path, report_to="notes", max_steps=1)
    run.train()
    run.log({"eval_loss": 1.0})
    run._tracking.end("finished", step=1)
    assert ("log", 1, {"eval/loss": 1.0}) in told(run)
    assert {row[1].run_id for row in told(run) if row[0] == "start"} == {run.run_id}


@pytest.mark.parametrize(("error", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_the_tracker_hears_how_a_run_ended(
    tmp_path: Path, tell: Callable[..., None], error: BaseException, status: str
) -> None:
    class Raises(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise error

    tell()
    run = trainer(tmp_path, report_to="notes", max_steps=2, callbacks=[Raises()])
    with pytest.raises((CallbackError, KeyboardInterrupt)):
        run.train()
    assert told(run)[-1][:2] == ("finish", status)


def test_a_pruned_trial_is_told_as_pruned(tmp_path: Path, tell: Callable[..., None]) -> None:
    class TrialPruned(Exception):
        pass

    class Prunes(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise TrialPruned

    tell()
    run = trainer(tmp_path, report_to="notes", max_steps=2, callbacks=[Prunes()])
    with pytest.raises(CallbackError):
        run.train()
    assert told(run)[-1][:2] == ("finish", "pruned")


def test_nobody_to_report_to_leaves_no_trace(tmp_path: Path) -> None:
    run = trainer(tmp_path, report_to="none", max_steps=1, save_strategy="no")
    run.train()
    assert not (tmp_path / "runs").exists()


def test_an_unknown_tracker_is_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(PluginNotFoundError, match="no tracker called 'nobody_has_this'"):
        trainer(tmp_path, report_to="nobody_has_this")


def test_a_tracker_whose_package_is_missing_is_refused_at_construction(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    tell("lacking", PLUGIN.replace("()", "('no-such-net',)"))
    with pytest.raises(PluginUnavailableError, match='pip install "no-such-net"'):
        trainer(tmp_path, report_to="lacking")


def test_a_plugin_that_is_no_tracker_is_refused(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell("something", PLUGIN.replace("(Tracker)", ""))
    with pytest.raises(PluginBrokenError, match=r"must subclass hftrain\.plugin_api\.tracker\.Tracker"):
        trainer(tmp_path, report_to="something")


def test_a_named_tracker_that_does_not_start_stops_before_the_first_step(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    tell("keyless", TRACKER.replace('return "remote-7"', 'raise PermissionError("set KEYLESS_API_KEY")'))
    run = trainer(tmp_path, report_to="keyless", max_steps=2)
    with pytest.raises(ConfigurationError, match="keyless: PermissionError: set KEYLESS_API_KEY"):
        run.train()
    assert run.state.global_step == 0


def test_a_tracker_that_raises_each_time_changes_no_weight(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell("broken_line", TRACKER.replace('self.told.append(("log", step, dict(metrics)))', "raise OSError('down')"))
    told_run = trainer(tmp_path / "a", report_to="broken_line", max_steps=4, logging_steps=1, tracker_close_s=0.1)
    told_run.train()
    plain_run = trainer(tmp_path / "b", report_to="none", max_steps=4, logging_steps=1)
    plain_run.train()
    for ours, theirs in zip(told_run.model.parameters(), plain_run.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_all_means_those_that_can_start_without_asking(
    tmp_path: Path, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    tell()
    asks = "\n    def unavailable_because(self):\n        return 'no key; set ASKS_KEY'\n"
    tell("asks", TRACKER + asks)
    tell("lacking", PLUGIN.replace("()", "('no-such-net',)"))
    run = trainer(tmp_path, report_to="all", max_steps=1)
    trainer(tmp_path, report_to="all", max_steps=1)
    assert run._tracking._trackers.keys() - {"local"} == {"notes"}
    assert caplog.text.count("not to asks (no key; set ASKS_KEY)") == 1
    assert "lacking" not in caplog.text  # what is not installed is missed by nobody


def test_evaluations_of_two_trainers_are_two_runs(tmp_path: Path, tell: Callable[..., None]) -> None:
    tell()
    for _ in range(2):
        run = trainer(tmp_path, report_to="notes")
        for _ in range(2):
            run.log({"eval_loss": 1.0})
            run._tracking.end("finished", step=0)
    first, again, second, _ = [row[1] for row in told(run) if row[0] == "start"]
    assert is_run_id(first.run_id)
    assert first.run_id == again.run_id != second.run_id
    assert (first.remote_id, again.remote_id, second.remote_id) == (None, "remote-7", None)


def test_the_copy_of_the_record_gets_what_the_trackers_left_of_the_time(
    tmp_path: Path, tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float] = []
    monkeypatch.setattr(tracking, "close_within", lambda copy, timeout_s: left.append(timeout_s))
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    wait = "import os, time\n        while not os.path.exists(os.environ['GATE']): time.sleep(0.01)\n        self.told"
    tell(code=wait.join(TRACKER.rsplit("self.told", 1)))
    trainer(tmp_path, report_to="notes", max_steps=1, tracker_close_s=0.5).train()
    (tmp_path / "gate").touch()
    assert left[0] < 0.25


def test_a_program_that_changes_its_folder_keeps_one_record(
    tmp_path: Path, tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moves(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            monkeypatch.chdir(tmp_path / "other")

    tell()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    run = trainer(Path("out"), report_to="notes", max_steps=2, logging_steps=1, save_strategy="no", callbacks=[Moves()])
    run.train()
    assert list((tmp_path / "other").rglob("run.json")) == []
    assert (tmp_path / "out" / "runs" / str(run.run_id) / "notes.cursor").exists()
