"""Checks that the author of a tracker runs on their own class.

In a test of the plugin's own distribution::

    from hftrain.plugin_api.testing import check_tracker


    def test_the_contract(tmp_path):
        check_tracker(CsvTracker, tmp_path)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from hftrain.plugin_api.registry import API
from hftrain.plugin_api.requirements import lacks
from hftrain.plugin_api.spool import Spool
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.worker import Delivery, TrackerStartError

_ODD_ROWS: Sequence[dict[str, object]] = (
    {"loss": 1.0, "eval_loss": 2},
    {"loss": "nan"},
    {"loss": "inf", "grad_norm": "-inf"},
    {"note": "no number", "nothing": None, "list": [1, 2]},
    {},
    {f"metric_{number}": 0.5 for number in range(1000)},
)


class ContractError(AssertionError):
    """What a tracker does not keep to."""


def check_tracker(tracker: type[Tracker], folder: str | os.PathLike[str], *, timeout_s: float = 60.0) -> None:
    """Run a tracker through what a run may give it.

    Args:
        tracker: the class that the entry point names; what it needs of its environment is set.
        folder: an empty one, for the run's own files.
        timeout_s: how long all of it may take.

    Raises:
        ContractError: says what it does not keep to.
    """
    _check_class(tracker)
    _check_module(tracker)
    folder = os.fspath(folder)
    spool = Spool(os.path.join(folder, "runs", "checked"))
    first = _session(tracker, spool, _run(folder, spool), timeout_s=timeout_s)
    spool.append("resume", step=1)
    again = Run(**{**vars(_run(folder, spool)), "remote_id": first, "resumed_step": 1})
    second = _session(tracker, spool, again, timeout_s=timeout_s)
    if first is not None and first != second:
        raise ContractError(f"start() returned {first!r}, and, given that as remote_id, {second!r}: another run.")


def _run(folder: str, spool: Spool) -> Run:
    long = {f"argument_{number}": number for number in range(2000)}
    return Run(
        run_id="20260101-000000-abcdef",
        name="checked",
        folder=spool.folder,
        output_dir=folder,
        logging_dir=os.path.join(folder, "logs"),
        arguments={"learning_rate": 0.1, "text": "x" * 20_000, "nothing": None, "nested": {"a": [1]}, **long},
        model={"hidden": 8},
    )


def _session(tracker: type[Tracker], spool: Spool, run: Run, *, timeout_s: float) -> str | None:
    delivery = Delivery("checked", tracker(), spool.path)
    delivery.launch(run, last_seq=spool.last_seq)
    try:
        delivery.wait_for_start(timeout_s=timeout_s)
    except TrackerStartError as error:
        raise ContractError(f"start() failed: {error}.") from error
    for step, row in enumerate(_ODD_ROWS, start=(run.resumed_step or 0) + 1):
        delivery.offer(spool.append("log", step=step, data=row))
    delivery.offer(spool.append("finish", step=len(_ODD_ROWS), data={"status": "finished", "error": None}))
    if not delivery.close(timeout_s=timeout_s):
        raise ContractError(
            f"It did not take every event in {timeout_s:g} s; the last one raised {delivery.failure!r}."
        )
    if delivery.num_refused:
        raise ContractError(f"It refused {delivery.num_refused} events; a warning of each says which.")
    return delivery.remote_id


def _check_class(tracker: type[Tracker]) -> None:
    if not issubclass(tracker, Tracker):
        raise ContractError(f"{tracker!r} is no subclass of Tracker.")
    if tracker.api != API:
        raise ContractError(f"api is {tracker.api!r}; this version of the interface is {API}.")
    missing = lacks(tracker.requires)  # raises where one is no requirement
    if missing:
        raise ContractError(f"Install what it requires: {', '.join(lack.text for lack in missing)}.")
    try:
        tracker()
    except TypeError as error:
        raise ContractError(f"It cannot be made without arguments: {error}.") from error


def _check_module(tracker: type[Tracker]) -> None:
    """The class's module must be importable where nothing it requires is installed."""
    packages = sorted({_module_of(text) for text in tracker.requires})
    code = (
        f"import sys, importlib; before = set(sys.modules); importlib.import_module({tracker.__module__!r}); "
        f"found = sorted(set({packages!r}) & (set(sys.modules) - before)); "
        "sys.exit(f'imports {found} at its top: import it in start' if found else 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ContractError(f"{tracker.__module__} {done.stderr.strip().splitlines()[-1]}.")


def _module_of(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name.replace("-", "_")
