"""The loop of a search whose backend is asked and told: one thread a job, each waiting for the trial that it runs."""

from __future__ import annotations

import threading
import time

from hftrain.plugin_api.search import (
    SearchBackend,
    SearchPlan,
    SearchResult,
    SearchTarget,
    Trial,
    TrialOutcome,
    TrialReport,
)


def run_search(backend: SearchBackend, target: SearchTarget, plan: SearchPlan) -> SearchResult:
    """Ask for trials, run them, and tell what became of them, until there are as many as planned.

    Raises:
        ValueError: the plan is not what the backend can do; no trial has begun.
        Exception: whatever `ask`, `report` or `tell` of the backend raised; what was running is stopped.
    """
    if len(plan.directions) > 1 and not backend.takes_several_objectives:
        raise ValueError(
            f"direction={list(plan.directions)} asks for {len(plan.directions)} objectives; {type(backend).__name__} "
            "searches for one. Give one direction, or another backend."
        )
    try:
        loop = _Loop(backend, target, plan, list(backend.open(plan)))
        loop.run()
    finally:
        summary = backend.close()
    outcomes = tuple(loop.outcomes)
    return SearchResult(
        outcomes=outcomes,
        best=backend.best(outcomes, plan.directions),
        summary=summary,
        stopped_because=loop.stopped_because,
    )


class _Loop:
    """What the threads share."""

    def __init__(
        self, backend: SearchBackend, target: SearchTarget, plan: SearchPlan, outcomes: list[TrialOutcome]
    ) -> None:
        self.outcomes = outcomes
        self.stopped_because: str | None = None
        self._backend = backend
        self._target = target
        self._plan = plan
        self._lock = threading.Lock()
        self._num_left = plan.num_trials - len(outcomes)
        self._num_failed = 0
        self._end = None if plan.timeout_s is None else time.monotonic() + plan.timeout_s
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work until nothing is left. One job runs in this thread, where signals arrive."""
        if self._plan.num_jobs == 1:
            self._work()
        else:
            count = max(0, min(self._plan.num_jobs, self._num_left))
            self._work_in([threading.Thread(target=self._work, name=f"hftrain-trial-{n}") for n in range(count)])
        if self._error is not None:
            raise self._error

    def _work_in(self, threads: list[threading.Thread]) -> None:
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as error:  # a KeyboardInterrupt reaches the main thread only; `run` raises it
            self._fail(error)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _work(self) -> None:
        try:
            while (trial := self._next()) is not None:
                outcome = self._target.run(
                    trial,
                    report=lambda report, trial=trial: self._report(trial, report),  # type: ignore[misc]
                    is_cancelled=lambda trial=trial: self._is_cancelled(trial),  # type: ignore[misc]
                )
                self._tell(trial, outcome)
        except BaseException as error:  # `run` raises it, in the thread that called for the search
            self._fail(error)

    def _next(self) -> Trial | None:
        with self._lock:
            if self._error is not None or self._num_left <= 0 or self._should_stop():
                return None
            trial = self._backend.ask()
            if trial is None:
                self.stopped_because = "the backend has nothing left to try"
                self._num_left = 0
                return None
            self._num_left -= 1
            return trial

    def _should_stop(self) -> bool:
        if self._end is not None and time.monotonic() >= self._end:
            self.stopped_because = f"the timeout of {self._plan.timeout_s:g} s is over"
        elif self._num_failed > self._plan.max_failures:
            self.stopped_because = f"{self._num_failed} trials failed, and max_failures={self._plan.max_failures}"
        return self.stopped_because is not None

    def _report(self, trial: Trial, report: TrialReport) -> bool:
        if len(self._plan.directions) > 1:
            return False  # no trial is behind in all of them before its end
        with self._lock:
            return self._backend.report(trial, report)

    def _is_cancelled(self, trial: Trial) -> bool:
        with self._lock:
            return self._error is not None or self._backend.is_cancelled(trial)

    def _tell(self, trial: Trial, outcome: TrialOutcome) -> None:
        with self._lock:
            self.outcomes.append(outcome)
            self._num_failed += outcome.state == "failed"
            self._backend.tell(trial, outcome)
        self._target.told(outcome)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self._target.stop()
