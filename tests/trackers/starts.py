"""Starts a tracker with settings of the environment, one after the other: ``python starts.py TRACKER``, cases on stdin.

The cases are a JSON list of mappings of variables, null takes one away. Prints a JSON list: the error's text, or null.
With ``--as-a-run`` it starts once, with the environment as it is, in a thread and within the limit that a run has.
"""

from __future__ import annotations

import json
import os
import sys

from train import loopback_only

from hftrain.plugin_api.registry import Kind, registry
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.worker import Delivery, TrackerStartError, text_of


def main(name: str) -> None:
    """Start each, and end those that start."""
    loopback_only()
    loaded: type[Tracker] = registry().load(Kind.TRACKER, name)
    before = dict(os.environ)
    found = []
    for number, case in enumerate(json.load(sys.stdin)):
        for key, value in case.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        found.append(_start(loaded(), str(number)))
        os.environ.clear()
        os.environ.update(before)
    print(json.dumps(found))


def _start(tracker: Tracker, number: str) -> str | None:
    folder = os.path.abspath(number)
    os.makedirs(folder)
    try:
        tracker.start(Run(run_id=f"run-{number}", name="n", folder=folder, output_dir=folder, arguments={"seed": 1}))
    except Exception as error:
        return text_of(error)
    tracker.log({"train/loss": 1.0}, 1)
    tracker.finish("finished", None)
    return None


def start_as_a_run(name: str) -> None:
    """Print what a run says that does not begin."""
    loopback_only()
    folder = os.getcwd()
    delivery = Delivery(name, registry().load(Kind.TRACKER, name)(), os.path.join(folder, "events.jsonl"))
    delivery.launch(Run(run_id="run-1", name="n", folder=folder, output_dir=folder, arguments={"seed": 1}))
    try:
        delivery.wait_for_start()
    except TrackerStartError as error:
        print(json.dumps(str(error)), flush=True)


if __name__ == "__main__":
    (start_as_a_run if "--as-a-run" in sys.argv else main)(sys.argv[1])
