"""``hftrain watch``: a run in the terminal, while it trains. No torch; the run is not touched, its record is read."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from hftrain.cli.output import Output, printable
from hftrain.plugin_api.runs import find_run
from hftrain.report.follow import Follower, state_document
from hftrain.report.runs import RunData, read_run
from hftrain.report.watch import check_installed, clean, ending, frame, line, waiting

if TYPE_CHECKING:
    from rich.console import Console

_GOOD = ("finished", "pruned", None)
_MOST_NEWS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser this verb's options."""
    parser.add_argument("run", metavar="RUN", help="an output_dir, of which the newest run is meant, or a run's folder")
    parser.add_argument("--once", action="store_true", help="show the run as it is now, and leave")
    parser.add_argument("--plain", action="store_true", help="a line for each news, as where stdout is no terminal")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks")
    parser.add_argument("--json", action="store_true", help="the run as it is now, one JSON document on stdout")


def run(options: argparse.Namespace, output: Output) -> int:
    """Show the run until it ends; return 1 if it failed or was interrupted."""
    if options.json or options.once:
        return _once(options, output)
    follower = Follower(options.run)
    if options.plain or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        try:
            found = _lines(follower, options)
        except BrokenPipeError:  # whoever reads has seen enough; nothing is left to be flushed at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    else:
        check_installed()
        found = _live(follower, options)
    return _code(found)


def _once(options: argparse.Namespace, output: Output) -> int:
    found, now = read_run(find_run(options.run)), time.time()
    if options.json:
        output.result(state_document(found, now), "")
    elif options.plain:
        print(line(found, now) if found.status is None else ending(found))
    else:
        check_installed()
        console = _console()
        console.print(frame(found, now=now, width=console.width))
    return _code(found)


def _live(follower: Follower, options: argparse.Namespace) -> RunData:
    from rich.live import Live

    console = _console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = follower.read()
            shown = waiting(options.run) if found is None else frame(found, now=time.time(), width=console.width)
            live.update(shown, refresh=True)
            if follower.is_behind:
                continue
            if found is not None and found.status is not None:
                return found
            time.sleep(options.interval)


def _lines(follower: Follower, options: argparse.Namespace) -> RunData:
    before, found = None, follower.read()
    if found is None:
        _say(f"Waiting for a run in {clean(options.run)}")
    while True:
        if found is not None and found is not before and not follower.is_behind:
            _say_news(before, found)
            before = found
            if found.status is not None:
                _say(ending(found))
                return found
        if not follower.is_behind:
            time.sleep(options.interval)
        found = follower.read()


def _say_news(before: RunData | None, found: RunData) -> None:
    """Print what is new: the rows in one line, then checkpoints and warnings, the last few of them."""
    old = before if before is not None and before.folder == found.folder else None
    if found.series and (old is None or old.step != found.step or old.series.keys() != found.series.keys()):
        _say(line(found, time.time()))
    for one in found.checkpoints[len(old.checkpoints) if old else 0 :][-_MOST_NEWS:]:
        _say(f"saved {clean(one.name)}")
    for one in found.warnings[len(old.warnings) if old else 0 :][-_MOST_NEWS:]:
        _say(f"warning at step {one.step}: {clean(one.text)}")


def _say(text: str) -> None:
    print(printable(text), flush=True)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _code(found: RunData) -> int:
    return 0 if found.status in _GOOD else 1


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} s is no interval; give 0.05 to 3600")
    return value
