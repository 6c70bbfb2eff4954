"""Search backends that keep to the contract, and those that each break one thing of it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from typing import Any

from hftrain.plugin_api.search import (
    SearchBackend,
    SearchPlan,
    SearchResult,
    SearchTarget,
    Trial,
    TrialOutcome,
    TrialReport,
)
from hftrain.plugin_api.space import Choice, Distribution, Integers


def drawn(distribution: Distribution, source: random.Random) -> Any:
    if isinstance(distribution, Choice):
        return source.choice(distribution.values)
    if isinstance(distribution, Integers):
        return source.randint(distribution.low, distribution.high)
    return source.uniform(distribution.low, distribution.high)


class RandomSearch(SearchBackend):
    """The least that a backend is."""

    api = 1

    def open(self, plan: SearchPlan) -> Sequence[TrialOutcome]:
        if plan.options:
            raise ValueError(f"{sorted(plan.options)} are no options of a random search; it has none.")
        self.plan, self.random, self.count = plan, random.Random(plan.seed), 0
        return ()

    def ask(self) -> Trial | None:
        self.count += 1
        if self.plan.space is not None:
            parameters = {name: drawn(one, self.random) for name, one in self.plan.space.items()}
        else:
            assert self.plan.hp_space is not None  # a plan has one of the two
            parameters = self.plan.hp_space(self.random)
        return Trial(id=str(self.count), parameters=parameters, native=self.random)


class Kept(RandomSearch):
    """It keeps its study in a file, takes several objectives, and prunes what starts badly."""

    takes_several_objectives = True
    resumes = True

    def open(self, plan: SearchPlan) -> Sequence[TrialOutcome]:
        super().open(plan)
        self.path = os.path.join(plan.output_dir, "study.jsonl")
        self.first: list[float] = []
        if not os.path.exists(self.path):
            return ()
        with open(self.path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        self.count = len(rows)
        self.random.seed(f"{plan.seed} {self.count}")
        return [TrialOutcome(**{**row, "values": tuple(row["values"])}) for row in rows]

    def report(self, trial: Trial, report: TrialReport) -> bool:
        if len(self.plan.directions) > 1:
            raise NotImplementedError("nobody asks")
        if report.step == 10:
            self.first.append(report.values[0])
        return len(self.first) > 3 and report.values[0] > max(self.first[:2])

    def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        kept = ("trial_id", "state", "parameters", "values", "step", "error")
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({name: getattr(outcome, name) for name in kept}) + "\n")


class OwnLoop(RandomSearch):
    """It starts its trials itself, with a copy of the target."""

    def search(self, target: SearchTarget, plan: SearchPlan) -> SearchResult:
        if len(plan.directions) > 1:
            raise ValueError("one objective only")
        self.open(plan)
        outcomes: list[TrialOutcome] = []
        because = "the timeout is over" if plan.timeout_s == 0 else None
        while len(outcomes) < plan.num_trials and because is None:
            trial = self.ask()
            assert trial is not None  # it never ends
            outcomes.append(target.portable().run(trial, report=lambda report: False))
            target.told(outcomes[-1])
            if sum(one.state == "failed" for one in outcomes) > plan.max_failures:
                because = "too many failed"
        best = self.best(outcomes, plan.directions)
        return SearchResult(outcomes=tuple(outcomes), best=best, stopped_because=because)


class SameId(RandomSearch):
    def ask(self) -> Trial | None:
        super().ask()
        return Trial(id="same", parameters={"learning_rate": 1e-3, "layers": 1, "optim": "sgd"})


class PathAsId(RandomSearch):
    def ask(self) -> Trial | None:
        trial = super().ask()
        assert trial is not None
        return Trial(id=f"a/{trial.id}", parameters=trial.parameters)


class TextForNumber(RandomSearch):
    def ask(self) -> Trial | None:
        trial = super().ask()
        assert trial is not None
        return Trial(id=trial.id, parameters={**trial.parameters, "layers": str(trial.parameters["layers"])})


class LeavesOneOut(RandomSearch):
    def ask(self) -> Trial | None:
        trial = super().ask()
        assert trial is not None
        return Trial(id=trial.id, parameters={"learning_rate": trial.parameters["learning_rate"]})


class EndsEarly(RandomSearch):
    def ask(self) -> Trial | None:
        return super().ask() if self.count < 2 else None


class AlwaysLeast(RandomSearch):
    def best(self, outcomes: Sequence[TrialOutcome], directions: Any) -> tuple[str, ...]:
        return super().best(outcomes, ["minimize"])


class TakesAnything(RandomSearch):
    def open(self, plan: SearchPlan) -> Sequence[TrialOutcome]:
        self.plan, self.random, self.count = plan, random.Random(), 0
        return ()


class Forgets(Kept):
    def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """It keeps nothing."""


class NeverStops(OwnLoop):
    def search(self, target: SearchTarget, plan: SearchPlan) -> SearchResult:
        from dataclasses import replace

        return super().search(target, replace(plan, max_failures=1000))


class TellsNobody(OwnLoop):
    def search(self, target: SearchTarget, plan: SearchPlan) -> SearchResult:
        return super().search(target.portable(), plan)


class NoKey(RandomSearch):
    def unavailable_because(self) -> str | None:
        return "NO_SUCH_KEY is not set"


class NoLoop(SearchBackend):
    api = 1
