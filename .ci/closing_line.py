"""Sums the closing lines of several runs of pytest: ``closing_line.py REPORT...`` prints one of the same form.

A report that has none counts as an error: its run ended before pytest could tell what came of it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

CLOSING = re.compile(r"^=* ?(?P<counts>\d+ [a-z]+(?:, \d+ [a-z]+)*|no tests ran) in (?P<seconds>[\d.]+)s\b.*$", re.M)
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "errors")
PLURAL = {"warning": "warnings", "error": "errors"}


def summed(reports: list[str]) -> str:
    """Return the closing line of all reports together."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for report in reports:
        closings = list(CLOSING.finditer(report))
        if not closings:
            counts["errors"] += 1
            continue
        seconds += float(closings[-1]["seconds"])
        for number, word in re.findall(r"(\d+) ([a-z]+)", closings[-1]["counts"]):
            counts[PLURAL.get(word, word)] += int(number)
    said = ", ".join(f"{counts[word]} {_singular(word, counts[word])}" for word in ORDER if counts[word])
    return f"{said or 'no tests ran'} in {seconds:.2f}s"


def _singular(word: str, number: int) -> str:
    return word.removesuffix("s") if number == 1 and word in PLURAL.values() else word


if __name__ == "__main__":
    print(summed([Path(name).read_text(errors="replace") for name in sys.argv[1:]]))
