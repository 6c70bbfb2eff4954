"""``hftrain report``: one page that shows a run, or compares several; it opens in a browser without a network."""

from __future__ import annotations

import argparse
import os

from hftrain.checkpoint.layout import size_text
from hftrain.cli.output import Output, counted
from hftrain.plugin_api.runs import find_run
from hftrain.report.document import labels_of
from hftrain.report.page import NAME, write_page
from hftrain.report.runs import RunData, read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser this verb's options."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="an output_dir, of which the newest run is meant, or a run's folder"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"where to write the page; by default {NAME} in the run's folder, or here where several are compared",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace, output: Output) -> int:
    """Write the page."""
    folders = dict.fromkeys(os.path.realpath(find_run(path)) for path in options.runs)
    runs = [read_run(folder) for folder in folders]
    path = options.output or (os.path.join(runs[0].folder, NAME) if len(runs) == 1 else NAME)
    num_bytes = write_page(path, runs)
    rows = [_described(one, label) for one, label in zip(runs, labels_of(runs), strict=True)]
    what = f"{counted(len(runs), 'run')}, {size_text(num_bytes)}"
    output.result({"file": path, "bytes": num_bytes, "runs": rows}, f"{path}: {what}")
    return 0


def _described(run: RunData, label: str) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "label": label,
        "folder": run.folder,
        "status": run.status,
        "step": run.step,
        "points": sum(len(series) for series in run.series.values()),
    }
