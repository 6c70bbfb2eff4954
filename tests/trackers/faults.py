"""Runs one tracker's real client through every kind of fault: in a process of its own, which prints what came of it.

``python faults.py TRACKER FOLDER``. The faults are put between the template and the tracker's own methods.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from train import in_its_place, loopback_only, short_run

from hftrain import TrainerCallback
from hftrain.errors import ConfigurationError
from hftrain.plugin_api import worker
from hftrain.plugin_api.registry import Kind, registry
from hftrain.plugin_api.runs import find_run, replay
from hftrain.plugin_api.spool import read_events
from hftrain.plugin_api.worker import Patience

STEPS = 20
FOR_EVER = threading.Event()


class Faults:
    """What goes wrong, and what the tracker was told all the same. One for each fault."""

    start_s = 120.0
    """Long, since a machine with much to do may start a client slowly; the limit is tried by `HangsAtStart`."""
    close_s = 0.3

    def __init__(self) -> None:
        self.told: list[int] = []
        self.happened = threading.Event()
        self.ends: list[str] = []

    def start(self) -> None:
        """Before the service is asked to begin."""

    def log(self, step: int) -> None:
        """Before it is told a row."""

    def logged(self, step: int) -> None:
        """It was told a row."""

    def finish(self) -> None:
        """Before it is told the end."""

    def trained(self) -> None:
        """The steps are done. A slow client is given time to come to its fault."""
        self.happened.wait(60)


class None_(Faults):
    """Nothing goes wrong: for what is told later."""

    close_s = 60.0


class RefusesAtStart(Faults):
    def start(self) -> None:
        raise ConnectionRefusedError("nobody listens there")


class HangsAtStart(Faults):
    start_s = 0.2

    def start(self) -> None:
        FOR_EVER.wait()


class RaisesAlways(Faults):
    def log(self, step: int) -> None:
        self.happened.set()
        raise RuntimeError("the client is broken")

    finish = functools.partialmethod(log, 0)  # type: ignore[assignment]


class DiskFull(Faults):
    def log(self, step: int) -> None:
        self.happened.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    finish = functools.partialmethod(log, 0)  # type: ignore[assignment]


class DiesAtStep10(Faults):
    def log(self, step: int) -> None:
        if step >= 10:
            self.happened.set()
            raise ConnectionResetError("gone")

    finish = functools.partialmethod(log, STEPS)  # type: ignore[assignment]


class ComesBack(Faults):
    close_s = 60.0
    failures = 0

    def log(self, step: int) -> None:
        if step >= 10 and self.failures < 12:
            self.happened.set()
            self.failures += 1
            raise ConnectionResetError("gone for a while")


class AnswersGarbage(Faults):
    close_s = 60.0
    failures = 0

    def log(self, step: int) -> None:
        if step >= 10 and self.failures < 3:
            self.happened.set()
            self.failures += 1
            json.loads("<html>502 Bad Gateway</html>")


class TakesItsTime(Faults):
    """Takes nothing before all steps are done: a step that waited for it would wait for ever."""

    close_s = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def log(self, step: int) -> None:
        self.gate.wait()

    def trained(self) -> None:
        self.gate.set()


class HangsAtTheEnd(Faults):
    def logged(self, step: int) -> None:
        if step == STEPS:
            self.happened.set()

    def finish(self) -> None:
        FOR_EVER.wait()


KINDS: dict[str, type[Faults]] = {
    "refuses_at_start": RefusesAtStart,
    "takes_its_time": TakesItsTime,
    "raises_always": RaisesAlways,
    "dies_at_step_10": DiesAtStep10,
    "comes_back": ComesBack,
    "answers_garbage": AnswersGarbage,
    "disk_full": DiskFull,
    "hangs_at_the_end": HangsAtTheEnd,
    "hangs_at_start": HangsAtStart,
}


def faulty(real: type[Any], faults: Faults) -> type[Any]:
    """Return the tracker's class with the faults in front of its client."""

    class Faulty(real):  # type: ignore[misc]
        def start(self, run: Any) -> Any:
            faults.start()
            return super().start(run)

        def log(self, metrics: Any, step: int) -> None:
            faults.log(step)
            super().log(metrics, step)
            if any(name.endswith("learning_rate") for name in metrics):
                faults.told.append(step)
                faults.logged(step)

        def finish(self, status: Any, error: Any) -> None:
            faults.finish()
            super().finish(status, error)
            faults.ends.append(status)

    return Faulty


class Trained(TrainerCallback):
    """Says that the last step is done."""

    def __init__(self, say: Callable[[], None]) -> None:
        self.say = say

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.say()


class Lines(logging.Handler):
    """Keeps the warnings of a run."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def outcome(tracker: str, kind: str, folder: Path) -> dict[str, Any]:
    """Train with a fault, tell later what was missed, and return what came of both."""
    faults, lines, real = KINDS[kind](), Lines(), registry().load(Kind.TRACKER, tracker)
    logging.getLogger("hftrain").addHandler(lines)
    trainer = short_run(tracker, folder, steps=STEPS, close_s=faults.close_s, callback=Trained(faults.trained))
    tracking = trainer._tracking
    assert tracking is not None
    tracking._trackers = {tracker: faulty(real, faults)}
    tracking._settings = replace(tracking._settings, start_s=faults.start_s)
    error = None
    try:
        trainer.train()
    except ConfigurationError as caught:
        error = str(caught)
    logging.getLogger("hftrain").removeHandler(lines)
    found = {"steps": trainer.state.global_step, "error": error, "warnings": lines.texts, "ends": faults.ends}
    return {**found, "told": list(faults.told), **told_later(tracker, real, faults, folder)}


def told_later(tracker: str, real: type[Any], faults: Faults, folder: Path) -> dict[str, Any]:
    """Tell what was missed with the fault mended; a run that never began has nothing to tell."""
    run = find_run(str(folder))
    events = [event for event in read_events(f"{run}/events.jsonl") if event.type == "log"]
    rows = [event.step for event in events if "learning_rate" in event.data]
    if faults.ends or not rows or isinstance(faults, HangsAtTheEnd):  # the hung client is still in this process
        return {"rows": rows, "later": [], "left": 0}
    mended = None_()
    left = replay(run, tracker, faulty(real, mended)(), timeout_s=60)
    return {"rows": rows, "later": mended.told, "left": left}


def main() -> None:
    """Print the outcome of every fault."""
    tracker, folder = sys.argv[1], Path(sys.argv[2])
    loopback_only()
    worker.Patience = functools.partial(Patience, first=0.001, most=0.01)  # type: ignore[assignment, misc]
    outcomes: dict[str, Any] = {}

    def run_all() -> None:
        for kind in KINDS:
            outcomes[kind] = outcome(tracker, kind, folder / kind)

    in_its_place(tracker, run_all)
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    main()
