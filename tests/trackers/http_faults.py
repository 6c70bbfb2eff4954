"""Trains with a tracker's real client while its server fails: ``python http_faults.py TRACKER FOLDER``, cases on stdin.

Cases are a JSON mapping: ``name -> {"variables", "address", "fault", "recovers"}``. Each is a run in FOLDER/name, whose
server fails from step 5 on, for ever or until step 15; with no fault given, as it was made. With ``--replay`` the runs
are told again instead. Prints a JSON mapping of what came of them; the process ends although threads of it hang.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from faults import Lines
from train import loopback_only, short_run

from hftrain import TrainerCallback
from hftrain.callbacks.tracking import Tracking
from hftrain.errors import ConfigurationError
from hftrain.plugin_api import worker
from hftrain.plugin_api.registry import Kind, registry
from hftrain.plugin_api.runs import find_run, replay
from hftrain.plugin_api.spool import read_events
from hftrain.plugin_api.worker import Patience

STEPS = 20


class Switch(TrainerCallback):
    """Makes the server fail at step 5, when it was told all before, and answer again when a client has seen that."""

    tracking: Tracking

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6 and self.case["fault"]:
            while self.tracking._deliveries[0].num_left:
                time.sleep(0.01)
            self._ask(f"mode/{self.case['fault']}")
        if state.global_step == 15 and self.case["recovers"]:
            self._wait_for_fault()
            self._ask("mode/ok")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.case["fault"]:
            self._wait_for_fault()

    def _wait_for_fault(self) -> None:
        # The client asks twice by itself, and what hangs, once.
        while self._ask("state")["failed"] < (1 if self.case["fault"] in ("hang", "silent") else 3):
            time.sleep(0.01)

    def _ask(self, path: str) -> Any:
        context = ssl._create_unverified_context() if self.case["address"].startswith("https") else None
        with urllib.request.urlopen(f"{self.case['address']}/{path}", context=context) as answer:
            return json.load(answer)


def outcome(tracker: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train and return what came of it."""
    lines, switch = Lines(), Switch(case)
    logging.getLogger("hftrain").addHandler(lines)
    trainer = short_run(tracker, folder, steps=STEPS, close_s=60.0 if case["recovers"] else 0.3, callback=switch)
    assert trainer._tracking is not None
    switch.tracking = trainer._tracking
    error = None
    try:
        trainer.train()
    except ConfigurationError as caught:
        error = str(caught)
    logging.getLogger("hftrain").removeHandler(lines)
    found = {"steps": trainer.state.global_step, "error": error, "warnings": lines.texts}
    if error is not None:
        return found
    events = [event for event in read_events(f"{find_run(str(folder))}/events.jsonl") if event.type == "log"]
    return {**found, "rows": [event.step for event in events if "learning_rate" in event.data]}


def main() -> None:
    """Run each case, or tell it again."""
    tracker, folder = sys.argv[1], Path(sys.argv[2])
    loopback_only()
    worker.Patience = functools.partial(Patience, first=0.01, most=0.1)  # type: ignore[assignment, misc]
    registry().load(Kind.TRACKER, tracker)().load()
    found: dict[str, Any] = {}
    for name, case in json.load(sys.stdin).items():
        before = dict(os.environ)
        os.environ.update(case["variables"])
        if "--replay" in sys.argv:
            run = find_run(str(folder / name))
            found[name] = replay(run, tracker, registry().load(Kind.TRACKER, tracker)(), timeout_s=60)
        else:
            begun = time.monotonic()
            found[name] = outcome(tracker, case, folder / name)
            print(name, round(time.monotonic() - begun, 1), file=sys.stderr)
        os.environ.clear()
        os.environ.update(before)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
