from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hftrain.plugin_api.search import (
    SearchBackend,
    SearchPlan,
    SearchTarget,
    Trial,
    TrialOutcome,
    TrialReport,
    best_trials,
)


class Asked(SearchBackend):
    api = 1

    def open(self, plan: SearchPlan) -> Sequence[TrialOutcome]:
        self.plan, self.random, self.count, self.is_closed = plan, random.Random(plan.seed), 0, False
        return ()

    def ask(self) -> Trial | None:
        self.count += 1
        return Trial(id=str(self.count), parameters={"x": self.random.random()})

    def close(self) -> Any:
        self.is_closed = True
        return "summary"


class Quick(SearchTarget):
    """Trains nothing; trials named in ``failing`` fail."""

    def __init__(self, failing: Sequence[str] = ()) -> None:
        self.failing, self.heard, self.is_stopped = failing, [], False
        self.heard: list[str]

    def run(self, trial: Trial, *, report: Callable[[TrialReport], bool], is_cancelled: Any = None) -> TrialOutcome:
        if trial.id in self.failing:
            return TrialOutcome(trial_id=trial.id, state="failed", error="asked to")
        values = (float(trial.parameters["x"]),)
        state = "pruned" if report(TrialReport(step=1, values=values)) else "finished"
        return TrialOutcome(trial_id=trial.id, state=state, values=values)  # type: ignore[arg-type]

    def told(self, outcome: TrialOutcome) -> None:
        self.heard.append(outcome.trial_id)

    def stop(self) -> None:
        self.is_stopped = True


def plan(**kwargs: Any) -> SearchPlan:
    return SearchPlan(**{"study": "s", "directions": ("minimize",), "num_trials": 5, "output_dir": "", **kwargs})


@pytest.mark.parametrize("num_jobs", [1, 3])
def test_as_many_trials_as_planned_are_run_and_told(num_jobs: int) -> None:
    target = Quick()
    result = Asked().search(target, plan(num_jobs=num_jobs))
    assert sorted(target.heard) == sorted(one.trial_id for one in result.outcomes) == ["1", "2", "3", "4", "5"]
    assert result.summary == "summary"


def test_one_job_trains_in_the_thread_that_called() -> None:
    threads = set()

    class Target(Quick):
        def run(self, trial: Trial, **kwargs: Any) -> TrialOutcome:
            threads.add(threading.current_thread())
            return super().run(trial, **kwargs)

    Asked().search(Target(), plan())
    assert threads == {threading.current_thread()}


def test_trials_of_before_count() -> None:
    class Resumed(Asked):
        def open(self, plan: SearchPlan) -> Sequence[TrialOutcome]:
            super().open(plan)
            return [TrialOutcome(trial_id="old", state="finished", values=(-1.0,))]

    result = Resumed().search(target := Quick(), plan())
    assert len(target.heard) == 4
    assert result.best == ("old",)


def test_failures_do_not_end_a_search_before_there_are_too_many() -> None:
    result = Asked().search(Quick(failing=["1", "2"]), plan(max_failures=2))
    assert [one.state for one in result.outcomes] == ["failed", "failed", "finished", "finished", "finished"]
    result = Asked().search(Quick(failing=["1", "2"]), plan(max_failures=1))
    assert result.stopped_because == "2 trials failed, and max_failures=1"


def test_a_backend_that_has_nothing_left_ends_the_search() -> None:
    class Two(Asked):
        def ask(self) -> Trial | None:
            return super().ask() if self.count < 2 else None

    result = Two().search(Quick(), plan(num_jobs=2))
    assert (len(result.outcomes), result.stopped_because) == (2, "the backend has nothing left to try")


def test_no_trial_begins_after_the_timeout() -> None:
    result = Asked().search(Quick(), plan(timeout_s=0.0))
    assert (result.outcomes, result.stopped_because) == ((), "the timeout of 0 s is over")


def test_the_backend_prunes() -> None:
    class Pruner(Asked):
        def report(self, trial: Trial, report: TrialReport) -> bool:
            return trial.id == "1"

    result = Pruner().search(Quick(), plan(num_trials=2))
    assert [one.state for one in result.outcomes] == ["pruned", "finished"]


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_what_the_backend_raises_stops_what_runs_and_is_raised(num_jobs: int) -> None:
    class Lost(Asked):
        def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
            raise OSError("the storage is gone")

    backend, target = Lost(), Quick()
    with pytest.raises(OSError, match="the storage is gone"):
        backend.search(target, plan(num_jobs=num_jobs))
    assert target.is_stopped
    assert backend.is_closed


def test_several_objectives_are_refused_where_the_backend_takes_one() -> None:
    with pytest.raises(ValueError, match="asks for 2 objectives; Asked searches for one"):
        Asked().search(Quick(), plan(directions=("minimize", "maximize")))


def outcome(name: str, *values: float, state: Any = "finished") -> TrialOutcome:
    return TrialOutcome(trial_id=name, state=state, values=values)


def test_the_best_goes_by_the_direction_and_a_nan_is_never_it() -> None:
    found = [outcome("a", 1.0), outcome("nan", float("nan")), outcome("b", 2.0), outcome("cut", 9.0, state="pruned")]
    assert best_trials(found, ["minimize"]) == ("a",)
    assert best_trials(found, ["maximize"]) == ("b",)
    assert best_trials([], ["minimize"]) == ()


def test_with_several_objectives_the_best_are_those_that_none_beats() -> None:
    found = [outcome("a", 1.0, 1.0), outcome("b", 2.0, 2.0), outcome("beaten", 2.0, 1.0)]
    assert best_trials(found, ["minimize", "maximize"]) == ("a", "b")
