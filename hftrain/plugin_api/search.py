"""What a search backend is, and what it gets instead of a Trainer.

A backend chooses parameters and is told what became of them. Training is the target's: `SearchTarget.run` trains one
trial, wherever that happens, and returns when it ended. A backend that is asked and told overrides `open`, `ask` and
`tell`; one that has a scheduler of its own (it starts the trials itself, in processes of its own) overrides `search`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from hftrain.plugin_api.space import Space

Direction = Literal["minimize", "maximize"]
TrialState = Literal["finished", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What is searched, and how long.

    Attributes:
        study: names the search; with the same storage it goes on where it was.
        directions: one for each objective.
        num_trials: how many there are to be in all, those of before counted.
        num_jobs: how many are trained at a time.
        output_dir: of the search, on a disk that all its processes see; trial ``t`` writes into ``run-t`` there.
        hp_space: what the user gave: called with the backend's own trial (None where it has none yet), it returns what
            the backend documents: parameters, or its own distributions. None: `space` counts, or the backend's default.
        space: the space in plain words; None if the user gave a function.
        storage: where the study is kept, as the user named it; None: in a file in ``output_dir``.
        owns_storage: whether nobody else can be training trials of this study: then those that the storage calls
            running were left by a process that died, and are asked for again.
        timeout_s: after this no further trial begins; None: never.
        max_failures: so many trials may fail; one more ends the search.
        seed: for the sampler, so that a search can be repeated.
        arguments: of the training, plain values without secrets.
        options: what the user gave for this backend; one that it does not know is an error.
    """

    study: str
    directions: tuple[Direction, ...]
    num_trials: int
    output_dir: str
    hp_space: Callable[[Any], Any] | None = None
    space: Space | None = None
    num_jobs: int = 1
    storage: str | None = None
    owns_storage: bool = True
    timeout_s: float | None = None
    max_failures: int = 10
    seed: int = 42
    arguments: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of parameters, to be trained.

    Attributes:
        id: letters, digits, ``-`` and ``_``; no other trial of the study has it, and a retried one keeps it.
        parameters: argument -> value; ``task.x`` goes to the constructor of the TaskModule.
        native: the backend's own trial, which ``model_init`` and ``hp_name`` are given. Its methods are called in the
            process that called `SearchTarget.run`, whichever one trains.
        is_retry: it ran before, in a process that died: it goes on from its last checkpoint, if it has one.
        resume_from: the checkpoint's folder, where the backend has moved it.
        environment: variables that are set while it trains, such as those by which a service's client finds its run.
    """

    id: str
    parameters: Mapping[str, Any]
    native: Any = None
    is_retry: bool = False
    resume_from: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """One evaluation of a trial.

    Attributes:
        step: optimizer steps done.
        values: one for each objective.
        metrics: of the evaluation.
        checkpoint: a folder committed at this step; None if there is none. It may be gone after the call.
    """

    step: int
    values: tuple[float, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What became of a trial.

    Attributes:
        values: one for each objective; empty if it failed before its first evaluation.
        step: where the values were reached.
        metrics: evaluated there.
        checkpoint: the model of that step; None if it was not kept.
        error: what stopped a failed one.
        reports: its evaluations, where the storage keeps them.
    """

    trial_id: str
    state: TrialState
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] = ()
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    error: str | None = None
    reports: tuple[TrialReport, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search leaves.

    Attributes:
        outcomes: of all trials, those of before first.
        best: the ids of the best: one, or with several objectives all that no other beats. Empty: none finished.
        summary: whatever the backend adds; ``BestRun.run_summary``.
        stopped_because: why there are fewer trials than planned; None if there are not.
    """

    outcomes: tuple[TrialOutcome, ...]
    best: tuple[str, ...]
    summary: Any = None
    stopped_because: str | None = None


class SearchTarget(Protocol):
    """Trains trials. Rank 0 alone has it; where several processes train, it takes the others along."""

    def run(
        self, trial: Trial, *, report: Callable[[TrialReport], bool], is_cancelled: Callable[[], bool] | None = None
    ) -> TrialOutcome:
        """Train one trial and return what became of it, when nothing of it is left in memory.

        It may be called in as many threads at a time as the plan has jobs. A trial that fails, or whose process dies,
        is an outcome and no exception.

        Args:
            trial: to be trained, from the same seeds as it would be alone.
            report: told of each evaluation, in the thread and process of this call; True ends the trial as pruned.
                With several objectives its answer does not count.
            is_cancelled: asked about once a second; True ends the trial as pruned.

        Raises:
            KeyboardInterrupt, TrainingInterrupted: the search is to end.
            ConfigurationError: the parameters name no argument; says the closest.
        """

    def told(self, outcome: TrialOutcome) -> None:
        """Hear of an outcome, in the process of the search, once for each trial that ends in it.

        What is printed of it, and which folders are deleted, follows from this.
        """

    def portable(self) -> SearchTarget:
        """Return a target that cloudpickle can send to another process of this machine.

        Raises:
            ConfigurationError: names what cannot be sent.
        """

    def stop(self) -> None:
        """End the trials that are running, from any thread: their `run` returns soon."""


class SearchBackend:
    """Chooses the parameters of trials. A plugin of the group ``hftrain.search`` is a subclass, made without arguments.

    All of it is called on rank 0 only, one call at a time, from several threads if the plan has several jobs. What
    `ask` and `tell` raise ends the search. Nothing third-party may be imported where the class's module is.

    Attributes:
        api: the version of this interface that it was written for.
        requires: what must be installed, in the form of PEP 508.
        extra: of its distribution, which installs that; "" if there is none.
        takes_several_objectives: else a plan with more than one is refused before `open`.
        resumes: whether a study that was interrupted can go on; else `open` always returns nothing.

    Example:
        ::

            class RandomSearch(SearchBackend):
                api = 1
                requires = ()
                extra = ""

                def open(self, plan):
                    self.random, self.plan, self.count = random.Random(plan.seed), plan, 0
                    return ()

                def ask(self):
                    self.count += 1
                    return Trial(id=str(self.count), parameters=self.plan.hp_space(self.random))
    """

    api: ClassVar[int] = 0
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    takes_several_objectives: ClassVar[bool] = False
    resumes: ClassVar[bool] = False

    def unavailable_because(self) -> str | None:
        """Say why no search can start (no key, no service); None if one can. No network."""
        return None

    def open(self, plan: SearchPlan) -> Sequence[TrialOutcome]:
        """Begin the study, or go on with it; return the trials that ended before.

        Raises:
            ValueError: the space, an option or the storage is wrong; says what to set. No trial has begun.
        """
        raise NotImplementedError(f"{type(self).__name__} must override open, or search.")

    def ask(self) -> Trial | None:
        """Return the next trial; None if there is nothing left to try.

        Trials that a dead process left running come first, with ``is_retry``, where the plan owns the storage.
        """
        raise NotImplementedError(f"{type(self).__name__} must override ask, or search.")

    def report(self, trial: Trial, report: TrialReport) -> bool:
        """Hear of an evaluation, and return whether the trial should end; not asked with several objectives."""
        return False

    def is_cancelled(self, trial: Trial) -> bool:
        """Whether the service wants a running trial to end. Asked about once a second."""
        return False

    def tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        """Hear how a trial ended."""

    def best(self, outcomes: Sequence[TrialOutcome], directions: Sequence[Direction]) -> tuple[str, ...]:
        """Return the ids of the best trials; the default goes by the values that finished ones reached."""
        return best_trials(outcomes, directions)

    def close(self) -> Any:
        """End what `open` began, also after an error; return what the backend adds to the result."""
        return None

    def search(self, target: SearchTarget, plan: SearchPlan) -> SearchResult:
        """Run the whole search. Override this instead of the above where trials are not started by us.

        An override owes what this does: each trial runs through `SearchTarget.run` or that of its `portable` copy;
        each outcome is `told` once; failed trials do not end the search before ``max_failures``; no trial begins after
        ``timeout_s``; and what a KeyboardInterrupt leaves running is stopped.
        """
        from hftrain.plugin_api.search_loop import run_search

        return run_search(self, target, plan)


def best_trials(outcomes: Sequence[TrialOutcome], directions: Sequence[Direction]) -> tuple[str, ...]:
    """Return the ids of the finished trials that no other beats: one for one objective, the first of equals.

    A trial beats another if it is better in one objective and worse in none. A NaN is worse than any number.
    """
    costs = {
        one.trial_id: tuple(_cost(value, direction) for value, direction in zip(one.values, directions, strict=True))
        for one in outcomes
        if one.state == "finished" and one.values
    }
    if len(directions) == 1:
        return (min(costs, key=lambda name: costs[name]),) if costs else ()
    return tuple(name for name, cost in costs.items() if not any(_beats(other, cost) for other in costs.values()))


def _cost(value: float, direction: Direction) -> float:
    if math.isnan(value):
        return float("inf")
    return value if direction == "minimize" else -value


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
