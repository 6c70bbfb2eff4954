"""Sums the closing lines of several runs of pytest: ``closing_line.py REPORT=EXIT_CODE...`` prints one of that form.

A report that has none counts as an error: its run ended before pytest could tell what came of it. So does one that
tells of no failure though its command exited with one: it died after its tests had passed.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

CLOSING = re.compile(r"^=* ?(?P<counts>\d+ [a-z]+(?:, \d+ [a-z]+)*|no tests ran) in (?P<seconds>[\d.]+)s\b.*$", re.M)
COUNT = re.compile(r"(\d+) ([a-z]+)")
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "errors")
PLURAL = {"warning": "warnings", "error": "errors"}


def summed(reports: list[tuple[str, int]]) -> str:
    """Return the closing line of all reports together, each with the exit code of its command."""
    counts: Counter[str] = Counter()
    seconds = 0.0
    for report, code in reports:
        closings = list(CLOSING.finditer(report))
        if not closings:
            counts["errors"] += 1
            continue
        seconds += float(closings[-1]["seconds"])
        own = {PLURAL.get(word, word): int(number) for number, word in COUNT.findall(closings[-1]["counts"])}
        if code != 0 and not (own.get("failed") or own.get("errors")):
            counts["errors"] += 1
        counts.update(own)
    said = ", ".join(f"{counts[word]} {_singular(word, counts[word])}" for word in ORDER if counts[word])
    return f"{said or 'no tests ran'} in {seconds:.2f}s"


def _singular(word: str, number: int) -> str:
    return word.removesuffix("s") if number == 1 and word in PLURAL.values() else word


if __name__ == "__main__":
    given = [argument.rpartition("=") for argument in sys.argv[1:]]
    print(summed([(Path(name).read_text(errors="replace"), int(code)) for name, _, code in given]))
