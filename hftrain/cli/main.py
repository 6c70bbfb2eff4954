"""The command itself: finds the verb, and turns what went wrong into a line and an exit code."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from hftrain._version import __version__
from hftrain.cli.output import Output
from hftrain.errors import ConfigurationError, HftrainError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; 1 also for "found bad". 3 is kept for verbs that leave something queued."""

VERBS = {
    "checkpoint": ("hftrain.cli.checkpoint", "list, verify, compare, protect and export checkpoints"),
    "plugins": ("hftrain.cli.plugins", "list trackers, search backends, hubs and the like, and what each one lacks"),
    "replay": ("hftrain.cli.replay", "tell a tracker what it missed of a run"),
    "report": ("hftrain.cli.report", "write a page that shows a run, or compares several"),
    "watch": ("hftrain.cli.watch", "show a run in the terminal while it trains"),
}
"""Verb -> (module that has ``add_arguments(parser)`` and ``run(options, output)``, what it does)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Raises:
        SystemExit: with 0 after ``--help`` and ``--version``, with 2 where the command cannot be understood.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal has no letters for is shown all the same
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    verb = parser.parse_args(words[:1]).verb
    if verb is None:
        parser.print_help(sys.stderr)
        return USAGE
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        parser.error(f"there is no verb {verb!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    module = import_module(VERBS[verb][0])
    verb_parser = argparse.ArgumentParser(prog=f"hftrain {verb}", description=VERBS[verb][1].capitalize() + ".")
    module.add_arguments(verb_parser)
    options = verb_parser.parse_args(words[1:])
    return _outcome(module.run, options, Output(as_json=options.json))


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:<12}{purpose}" for verb, (_, purpose) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="hftrain",
        description="Looks after what hftrain's training runs leave behind.",
        epilog=f"verbs:\n{verbs}\n\nhftrain VERB --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hftrain {__version__}")
    parser.add_argument("verb", nargs="?", metavar="VERB", help="one of those below")
    return parser


def _outcome(run: Callable[[argparse.Namespace, Output], int], options: argparse.Namespace, output: Output) -> int:
    try:
        return run(options, output)
    except (HftrainError, OSError) as error:
        output.error(error)
        return USAGE if isinstance(error, ConfigurationError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
