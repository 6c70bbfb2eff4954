"""``hftrain plugins``: what is installed, what can be used, and the command that mends what cannot. No torch."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from textwrap import wrap

from hftrain.cli.output import Output, counted
from hftrain.plugin_api.registered import Kind
from hftrain.plugin_api.registry import API, Registry
from hftrain.plugin_api.reports import BAD, Report, Status

_WIDTH = 80
_EXPLAINED = (Status.OUTDATED, Status.BROKEN, Status.INCOMPATIBLE)
"""Where the command that mends it does not tell what is wrong."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser this verb's options."""
    parser.add_argument("--check", action="store_true", help="import each one; exit with 1 if one is broken")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace, output: Output) -> int:
    """List the plugins; return 1 if one was checked and is broken, incompatible, or shares its name."""
    reports = list(Registry().reports(check=options.check))
    output.result({"api": API, "plugins": [report.to_dict() for report in reports]}, "\n".join(_lines(reports)))
    return int(options.check and any(report.status in BAD for report in reports))


def _lines(reports: list[Report]) -> Iterator[str]:
    if not reports:
        yield "No plugins are installed."
        return
    columns = [[cell(report) for report in reports] for cell in (_name, _distribution, _status)]
    widths = [max(map(len, column)) for column in columns]
    for kind in Kind:
        of_kind = [report for report in reports if report.registered.kind is kind]
        if of_kind:
            yield kind.value
        for report in of_kind:
            yield from _row(report, widths)
    counts = Counter(_status(report) for report in reports)
    yield f"\n{counted(len(reports), 'plugin')}: {', '.join(f'{count} {word}' for word, count in counts.most_common())}"


def _row(report: Report, widths: list[int]) -> Iterator[str]:
    """Lay a plugin out: what to do stands beside it if it fits, else below; then what is wrong, if that needs words."""
    cells = (_name(report), _distribution(report), _status(report))
    row = "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    beside = report.fix or report.detail
    if len(row) + 2 + len(beside) <= _WIDTH:
        yield f"{row}  {beside}".rstrip()
    else:
        yield row.rstrip()
        yield from _below(beside)
    if report.fix and report.status in _EXPLAINED:
        yield from _below(report.detail)


def _below(text: str) -> list[str]:
    if text.startswith("pip "):
        return [f"      {text}"]  # a command is copied whole
    words = " ".join(text.split())
    indent = " " * 6
    return wrap(words, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _name(report: Report) -> str:
    return report.registered.name


def _distribution(report: Report) -> str:
    return f"{report.registered.distribution} {report.registered.version}"


def _status(report: Report) -> str:
    return report.status.value
