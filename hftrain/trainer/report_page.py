"""The page that shows a run, written at its end."""

from __future__ import annotations

import logging
import os
import sys

from hftrain.report.page import NAME, write_page
from hftrain.report.runs import read_run

logger = logging.getLogger(__name__)


def write_report(folder: str) -> None:
    """Write the page into the run's folder and say where it is. One that cannot be written is a warning.

    Args:
        folder: of the run, whose end is told.
    """
    path = os.path.join(folder, NAME)
    try:
        write_page(path, [read_run(folder)])
    except Exception as error:  # whatever is in the way of a picture, the run has ended as it has
        logger.warning(
            "The report could not be written (%s: %s). Run: hftrain report %s", type(error).__name__, error, folder
        )
        return
    print(f"report of the run: {path}", file=sys.stderr, flush=True)
