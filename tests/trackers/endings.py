"""Ends runs in each way, in one process as a search does: ``python endings.py TRACKER``.

One fails, one is interrupted by SIGTERM, one is a trial that is pruned; each in a working directory of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from train import in_its_place, loopback_only, train

from hftrain import TrainingInterrupted
from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.errors import CallbackError
from hftrain.plugin_api.registry import Kind, registry
from hftrain.plugin_api.tracker import Run, Tracker


def main(tracker: str) -> None:
    """Run all three, one after the other."""
    loopback_only()
    options = argparse.Namespace(
        tracker=tracker, output_dir="out", resume=False, odd=False, kill_at=None, told_first=False
    )
    with _inside("failed"), contextlib.suppress(CallbackError):
        in_its_place(tracker, lambda: train(argparse.Namespace(**vars(options), fail_at=4, interrupt_at=None)))
    with _inside("interrupted"), contextlib.suppress(TrainingInterrupted):
        in_its_place(tracker, lambda: train(argparse.Namespace(**vars(options), fail_at=None, interrupt_at=4)))
    with _inside("pruned"):
        in_its_place(tracker, lambda: prune(tracker))


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    os.makedirs(folder)
    with contextlib.chdir(folder):
        yield


def prune(name: str) -> None:
    """Report a trial of a search that ends early."""
    loaded: type[Tracker] = registry().load(Kind.TRACKER, name)
    folder = os.path.abspath("out")
    run = Run(
        run_id="20260101-000000-abcdef",
        folder=folder,
        output_dir=folder,
        logging_dir=folder,
        arguments={"max_steps": 20},
        trial="trial-7",
        trial_params={"rate": 0.25},
        group="search-1",
    )
    tracking = Tracking({name: loaded}, TrackingSettings(start_s=120.0))
    tracking.begin(run)
    for step in (1, 2, 3):
        tracking.report("log", step=step, data={"loss": 1 / step})
    tracking.end("pruned", step=3)


if __name__ == "__main__":
    main(sys.argv[1])
