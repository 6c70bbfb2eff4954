"""The check of a tracker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hftrain.plugin_api.registry import Kind
from hftrain.plugin_api.spool import Spool
from hftrain.plugin_api.testing.common import (
    ContractError,
    check_availability,
    check_class,
    check_module,
    check_no_secret,
    leaving_the_process_alone,
    planted_secret,
)
from hftrain.plugin_api.tracker import Run, Status, Tracker, metric_name
from hftrain.plugin_api.worker import Delivery, Patience, TrackerStartError

Points = Iterable[tuple[int, str, float]]
_PIXEL = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\x02\0\x01H\xaf\xa4q"
    b"\0\0\0\0IEND\xaeB`\x82"
)
_RESUMED_STEP = 3


def check_tracker(
    tracker: type[Tracker],
    folder: str | os.PathLike[str],
    *,
    read_back: Callable[[], Points] | None = None,
    repeats_after_resume: bool = False,
    timeout_s: float = 60.0,
) -> None:
    """Run a tracker through what a run may give it: odd rows, media, a checkpoint, a resume, each way to end.

    Args:
        tracker: the class that the entry point names; what it needs of its environment is set.
        folder: an empty one, for the run's own files.
        read_back: returns what the service then holds, as (step, name, value); names are those that `Tracker.log` was
            told. With it, it is checked that nothing is lost, changed, out of order, or there twice after a resume.
        repeats_after_resume: for a service that takes nothing back: steps trained again may be there twice.
        timeout_s: how long a run's service may take.

    Raises:
        ContractError: says what it does not keep to.
    """
    check_class(Kind.TRACKER, tracker)
    with planted_secret(), leaving_the_process_alone():
        check_availability(tracker())
        session = _Session(tracker, os.fspath(folder), timeout_s)
        first = session.run(_rows(), status="finished")
        session.spool.append("resume", step=_RESUMED_STEP)
        again = session.run(_rows(after=_RESUMED_STEP), status="failed", remote_id=first, resumed_step=_RESUMED_STEP)
        if first is not None and first != again:
            raise ContractError(f"start() returned {first!r}, and, given that as remote_id, {again!r}: another run.")
        if read_back is not None:
            _check_points(tracker, list(read_back()), repeats=repeats_after_resume)
        for status in ("interrupted", "pruned"):
            _Session(tracker, os.fspath(folder), timeout_s, name=status).run({}, status=status)  # ended before a row
    check_no_secret(os.fspath(folder))
    check_module(tracker)


def _rows(*, after: int = 0) -> dict[int, Mapping[str, Any]]:
    """Return what is logged at each step; numbers differ when steps are trained again."""
    rows: list[Mapping[str, Any]] = [
        {"loss": 1.0 + after, "eval_loss": 2},
        {"loss": "nan", "learning_rate": 1e-30},
        {"loss": "inf", "grad_norm": "-inf", "test_accuracy": 0.25},
        {"note": "no number", "nothing": None, "list": [1, 2], "loss": 4.0 + after},
        {},
        {f"metric_{number}": 0.5 + after for number in range(1000)},
        {"loss": 7.0 + after},
    ]
    return {step: row for step, row in enumerate(rows, start=1) if step > after}


class _Session:
    """One run, and what goes on from it."""

    def __init__(self, tracker: type[Tracker], folder: str, timeout_s: float, name: str = "checked") -> None:
        self.spool = Spool(os.path.join(folder, "runs", name))
        self._tracker = tracker
        self._timeout_s = timeout_s
        long = {f"argument_{number}": number for number in range(2000)}
        self._run = Run(
            run_id=name,
            name=name,
            folder=self.spool.folder,
            output_dir=folder,
            logging_dir=os.path.join(folder, "logs"),
            arguments={"learning_rate": 0.1, "text": "x" * 20_000, "nothing": None, "nested": {"a": [1]}, **long},
            model={"hidden": 8, "nested": {"deep": {"er": None}}},
        )

    def run(self, rows: Mapping[int, Mapping[str, Any]], *, status: Status, **kwargs: Any) -> str | None:
        """Report a run from its start to its end, and return the service's id for it."""
        delivery = Delivery("checked", self._tracker(), self.spool.path, patience=Patience(first=0.01, most=0.1))
        delivery.launch(replace(self._run, **kwargs), last_seq=self.spool.last_seq)
        try:
            delivery.wait_for_start(timeout_s=self._timeout_s)
        except TrackerStartError as error:
            raise ContractError(f"start() failed: {error}.") from error
        for step, row in rows.items():
            delivery.offer(self.spool.append("log", step=step, data=row))
        if rows:
            self._offer_files(delivery, step=max(rows))
        data = {"status": status, "error": "RuntimeError: as the check asked" if status == "failed" else None}
        delivery.offer(self.spool.append("finish", step=max(rows, default=0), data=data))
        if not delivery.close(timeout_s=self._timeout_s):
            raise ContractError(
                f"It did not take every event in {self._timeout_s:g} s; the last one raised {delivery.failure!r}."
            )
        if delivery.num_refused:
            raise ContractError(f"It refused {delivery.num_refused} events; a warning of each says which.")
        if not isinstance(delivery.remote_id, str | None):
            raise ContractError(f"start() returned {delivery.remote_id!r}: the service's id as a text, or None.")
        return delivery.remote_id

    def _offer_files(self, delivery: Delivery, *, step: int) -> None:
        for kind, path in _media(os.path.join(self.spool.folder, "media")):
            delivery.offer(self.spool.append("media", step=step, data={"name": kind, "kind": kind, "path": path}))
        checkpoint = os.path.join(self._run.output_dir, f"checkpoint-{step}")
        os.makedirs(checkpoint, exist_ok=True)
        with open(os.path.join(checkpoint, "config.json"), "w", encoding="utf-8") as file:
            file.write("{}")
        data = {"name": f"checkpoint-{step}", "path": checkpoint, "metadata": {"loss": 7.0}}
        delivery.offer(self.spool.append("checkpoint", step=step, data=data))


def _media(folder: str) -> Iterator[tuple[str, str]]:
    import numpy as np

    os.makedirs(folder, exist_ok=True)
    for kind, name in {"image": "a.png", "text": "a.txt", "histogram": "a.npz"}.items():
        path = os.path.join(folder, name)
        if kind == "histogram":
            np.savez(path, counts=np.array([1, 2]), edges=np.array([0.0, 0.5, 1.0]))
        else:
            with open(path, "wb") as file:
                file.write(_PIXEL if kind == "image" else b"words")
        yield kind, path


def _check_points(tracker: type[Tracker], found: list[tuple[int, str, float]], *, repeats: bool) -> None:
    rows = {step: row for step, row in _rows().items() if step <= _RESUMED_STEP} | _rows(after=_RESUMED_STEP)
    expected = {
        (step, metric_name(name) if tracker.renames_metrics else name): float(value)
        for step, row in rows.items()
        for name, value in row.items()
        if isinstance(value, int | float)
    }
    held: dict[tuple[int, str], list[float]] = {}
    for step, name, value in found:
        held.setdefault((step, name), []).append(value)
    for (step, name), value in expected.items():
        values = held.get((step, name), [])
        if value not in values:
            raise ContractError(f"It lost {name}={value} of step {step}; what is there of it: {values}.")
        if len(values) > 1 and not (repeats and step > _RESUMED_STEP):
            raise ContractError(f"{name} of step {step} is there {len(values)} times: {values}.")
    for name in {name for _, name in held}:
        steps = [step for step, other, _ in found if other == name]
        if steps != sorted(steps) and not repeats:
            raise ContractError(f"The steps of {name} are out of order: {steps}.")
