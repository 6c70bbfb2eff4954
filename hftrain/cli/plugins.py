"""``hftrain plugins``: what is installed, what can be used, and the command that mends what cannot. No torch."""

from __future__ import annotations

import argparse

from hftrain.cli.output import Output, table
from hftrain.plugin_api.registry import API, Registry
from hftrain.plugin_api.reports import BAD, Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser this verb's options."""
    parser.add_argument("--check", action="store_true", help="import each one; exit with 1 if one is broken")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace, output: Output) -> int:
    """List the plugins; return 1 if one was checked and is broken, incompatible, or shares its name."""
    reports = list(Registry().reports(check=options.check))
    output.result({"api": API, "plugins": [report.to_dict() for report in reports]}, _listing(reports))
    return int(options.check and any(report.status in BAD for report in reports))


def _listing(reports: list[Report]) -> str:
    if not reports:
        return "No plugins are installed."
    rows = [
        (
            report.registered.kind.value,
            report.registered.name,
            f"{report.registered.distribution} {report.registered.version}",
            report.status.value,
            report.fix or report.detail,
        )
        for report in reports
    ]
    return table(("kind", "name", "distribution", "status", "what to do"), rows)
