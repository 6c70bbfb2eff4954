"""``hftrain replay``: tells a tracker what it missed of a run."""

from __future__ import annotations

import argparse

from hftrain.cli.output import Output, counted
from hftrain.errors import ConfigurationError, PluginError
from hftrain.plugin_api.registry import Kind, registry
from hftrain.plugin_api.runs import find_run, replay
from hftrain.plugin_api.tracker import Tracker
from hftrain.plugin_api.worker import TrackerStartError

STILL_QUEUED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser this verb's options."""
    parser.add_argument("run", metavar="RUN", help="an output_dir, of which the newest run is meant, or a run's folder")
    parser.add_argument("--to", required=True, metavar="NAME", help="the tracker, as report_to names it")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="how long it may take")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace, output: Output) -> int:
    """Tell the tracker; return 3 if it has not heard everything then."""
    folder = find_run(options.run)
    found = registry().load(Kind.TRACKER, options.to)
    if not issubclass(found, Tracker):
        raise ConfigurationError(f"The tracker {options.to!r} is {found!r}, which is no subclass of Tracker.")
    try:
        num_left = replay(folder, options.to, found(), timeout_s=options.timeout)
    except TrackerStartError as error:
        raise PluginError(f"{options.to} did not start: {error}.") from error
    told = f"{options.to} has been told everything of {folder}."
    left = f"{options.to} has not been told {counted(num_left, 'event')} of {folder}. Run this again."
    output.result({"run": folder, "tracker": options.to, "left": num_left}, left if num_left else told)
    return STILL_QUEUED if num_left else 0
