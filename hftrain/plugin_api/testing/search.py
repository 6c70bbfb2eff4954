"""The check of a search backend."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hftrain.plugin_api.registry import Kind
from hftrain.plugin_api.search import (
    SearchBackend,
    SearchPlan,
    SearchResult,
    SearchTarget,
    Trial,
    TrialOutcome,
    TrialReport,
    TrialState,
    best_trials,
)
from hftrain.plugin_api.space import Choice, Integers, Space, Uniform, integers, loguniform
from hftrain.plugin_api.testing.common import (
    ContractError,
    check_availability,
    check_class,
    check_module,
    leaving_the_process_alone,
)

SPACE: Space = {"learning_rate": loguniform(1e-5, 1e-1), "layers": integers(1, 3), "optim": Choice(("sgd", "adamw"))}
_ID = re.compile(r"[A-Za-z0-9_-]+")


def check_search_backend(
    backend: type[SearchBackend],
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    num_trials: int = 6,
) -> None:
    """Search with a backend for the least of a function, in the ways that a Trainer may ask for.

    Args:
        backend: the class that the entry point names; what it needs of its environment is set.
        folder: an empty one; each search has one of its own in it.
        options: what it needs beside.
        num_trials: of each search.

    Raises:
        ContractError: says what it does not keep to.
    """
    check_class(Kind.SEARCH, backend)
    plan = SearchPlan(
        study="checked",
        directions=("minimize",),
        num_trials=num_trials,
        output_dir=os.fspath(folder),
        space=SPACE,
        options=options or {},
    )
    with leaving_the_process_alone():
        check_availability(backend())
        for check in _CHECKS:
            own = os.path.join(os.fspath(folder), check.__name__.strip("_"))
            os.makedirs(own)
            check(backend, replace(plan, output_dir=own))
    check_module(backend)


def _check_one_search(backend: type[SearchBackend], plan: SearchPlan) -> None:
    target, result = _searched(backend, plan)
    _check_result(plan, result, num_new=plan.num_trials, target=target)
    if not backend.resumes:
        return
    longer = replace(plan, num_trials=plan.num_trials + 3)
    target, resumed = _searched(backend, longer)
    _check_result(longer, resumed, num_new=3, target=target)
    for before, after in zip(result.outcomes, resumed.outcomes, strict=False):
        if (before.trial_id, before.values, before.state) != (after.trial_id, after.values, after.state):
            raise ContractError(f"Going on, it returned {after} for what was {before}.")


def _check_maximizing(backend: type[SearchBackend], plan: SearchPlan) -> None:
    plan = replace(plan, directions=("maximize",))
    target, result = _searched(backend, plan)
    _check_result(plan, result, num_new=plan.num_trials, target=target)


def _check_two_jobs(backend: type[SearchBackend], plan: SearchPlan) -> None:
    plan = replace(plan, num_jobs=2)
    target, result = _searched(backend, plan)
    _check_result(plan, result, num_new=plan.num_trials, target=target)


def _check_failing_trials(backend: type[SearchBackend], plan: SearchPlan) -> None:
    plan = replace(plan, num_trials=plan.num_trials + 4, max_failures=1)
    target, result = _searched(backend, plan, error=RuntimeError("as the check asked"))
    states = {outcome.state for outcome in result.outcomes}
    if states != {"failed"} or not all(outcome.error for outcome in result.outcomes):
        raise ContractError(f"Trials that failed came back as {sorted(states)}, or without their error.")
    if not 2 <= len(target.heard) < plan.num_trials or not result.stopped_because:
        raise ContractError(
            f"max_failures=1, and all fail: {len(target.heard)} trials ran, and stopped_because is "
            f"{result.stopped_because!r}."
        )
    if result.best:
        raise ContractError(f"No trial finished, and the best is {result.best}.")


def _check_timeout(backend: type[SearchBackend], plan: SearchPlan) -> None:
    target, result = _searched(backend, replace(plan, timeout_s=0.0))
    if target.heard or not result.stopped_because:
        raise ContractError(f"timeout_s=0, and {len(target.heard)} trials ran.")


def _check_several_objectives(backend: type[SearchBackend], plan: SearchPlan) -> None:
    plan = replace(plan, directions=("minimize", "maximize"))
    if not backend.takes_several_objectives:
        _check_refused(backend, plan, "several objectives, which it does not take,")
        return
    target, result = _searched(backend, plan)
    _check_result(plan, result, num_new=plan.num_trials, target=target)


def _check_unknown_option(backend: type[SearchBackend], plan: SearchPlan) -> None:
    _check_refused(backend, replace(plan, options={**plan.options, "no_such_option": 1}), "an option it does not know")


def _check_bad_space(backend: type[SearchBackend], plan: SearchPlan) -> None:
    def bad(trial: Any) -> Any:
        raise KeyError("a mistake in the user's space")

    _check_refused(backend, replace(plan, space=None, hp_space=bad), "a space that raises")


def _check_interrupt(backend: type[SearchBackend], plan: SearchPlan) -> None:
    if backend.search is not SearchBackend.search:
        return  # its trials run elsewhere
    try:
        backend().search(_Bowl(plan, error=KeyboardInterrupt()), plan)
    except KeyboardInterrupt:
        return
    raise ContractError("A KeyboardInterrupt in a trial did not end the search.")


_CHECKS = (
    _check_one_search,
    _check_maximizing,
    _check_two_jobs,
    _check_failing_trials,
    _check_timeout,
    _check_several_objectives,
    _check_unknown_option,
    _check_bad_space,
    _check_interrupt,
)


def _searched(
    backend: type[SearchBackend], plan: SearchPlan, *, error: BaseException | None = None
) -> tuple[_Bowl, SearchResult]:
    target = _Bowl(plan, error=error)
    return target, backend().search(target, plan)


def _check_refused(backend: type[SearchBackend], plan: SearchPlan, what: str) -> None:
    target = _Bowl(plan)
    try:
        backend().search(target, plan)
    except Exception:  # the user reads it, whatever it is
        if target.heard:
            raise ContractError(f"{what} is an error after {len(target.heard)} trials: before the first.") from None
        return
    raise ContractError(f"{what} is no error: say so before the first trial.")


def _check_result(plan: SearchPlan, result: SearchResult, *, num_new: int, target: _Bowl) -> None:
    ids = [outcome.trial_id for outcome in result.outcomes]
    if len(ids) != plan.num_trials:
        raise ContractError(f"{plan.num_trials} trials were asked for, and {len(ids)} are in the result.")
    if len(set(ids)) != len(ids):
        raise ContractError(f"Trials share an id: {sorted(ids)}.")
    bad = [name for name in ids if not isinstance(name, str) or not _ID.fullmatch(name)]
    if bad:
        raise ContractError(f"{bad[0]!r} cannot be a trial's id: letters, digits, '-' and '_'.")
    if len(target.heard) != num_new or not set(target.heard) <= set(ids):
        raise ContractError(f"{num_new} trials ended, and told() heard of {target.heard}.")
    for outcome in result.outcomes:
        _check_parameters(outcome)
    best = best_trials(result.outcomes, plan.directions)
    if sorted(result.best) != sorted(best):
        raise ContractError(f"The best for {list(plan.directions)} is {list(best)}, and it says {list(result.best)}.")


def _check_parameters(outcome: TrialOutcome) -> None:
    if set(outcome.parameters) != set(SPACE):
        raise ContractError(f"Trial {outcome.trial_id} has the parameters {sorted(outcome.parameters)}.")
    for name, value in outcome.parameters.items():
        if not _is_in(SPACE[name], value):
            raise ContractError(f"Trial {outcome.trial_id} has {name}={value!r}, which is not in {SPACE[name]}.")


def _is_in(distribution: Uniform | Integers | Choice, value: Any) -> bool:
    if isinstance(distribution, Choice):
        return value in distribution.values
    if isinstance(distribution, Integers) and not isinstance(value, int):
        return False
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


class _Portable(SearchTarget):
    """Trains nothing: the loss of a trial follows from its parameters, and falls from step to step."""

    def __init__(self, plan: SearchPlan, *, error: BaseException | None = None) -> None:
        self._num_objectives = len(plan.directions)
        self._error = error

    def run(
        self, trial: Trial, *, report: Callable[[TrialReport], bool], is_cancelled: Callable[[], bool] | None = None
    ) -> TrialOutcome:
        if isinstance(self._error, KeyboardInterrupt):
            raise self._error
        if self._error is not None:
            return _outcome(trial, "failed", error=repr(self._error))
        for step in (10, 20, 30):
            values = self._values(trial, step)
            if report(TrialReport(step=step, values=values, metrics={"eval_loss": values[0]})):
                return _outcome(trial, "pruned", values=values, step=step)
        return _outcome(trial, "finished", values=values, step=step)

    def _values(self, trial: Trial, step: int) -> tuple[float, ...]:
        rate = float(trial.parameters["learning_rate"])
        return (abs(rate - 1e-3) + 1 / step, rate)[: self._num_objectives]

    def told(self, outcome: TrialOutcome) -> None:
        """Nobody listens here."""

    def portable(self) -> SearchTarget:
        return self

    def stop(self) -> None:
        """Nothing of it runs for long."""


class _Bowl(_Portable):
    """The target of the process that searches."""

    def __init__(self, plan: SearchPlan, *, error: BaseException | None = None) -> None:
        super().__init__(plan, error=error)
        self.heard: list[str] = []
        self._plan = plan
        self._lock = threading.Lock()

    def told(self, outcome: TrialOutcome) -> None:
        with self._lock:
            self.heard.append(outcome.trial_id)

    def portable(self) -> SearchTarget:
        return _Portable(self._plan, error=self._error)


def _outcome(trial: Trial, state: TrialState, **kwargs: Any) -> TrialOutcome:
    return TrialOutcome(trial_id=trial.id, state=state, parameters=trial.parameters, **kwargs)
