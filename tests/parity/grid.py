"""Train every cell of the grid with both libraries and print the largest differences.

python -m tests.parity.grid            all cells
python -m tests.parity.grid WORD...    the cells whose name contains one of the words
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.parity.cells import CELLS
from tests.parity.harness import Cell, both, differences, problems


def compare(name: str, cell: Cell) -> bool:
    """Train one cell with both, print a line, and return whether they agree."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            mine, reference = both(cell, Path(folder))
        except Exception as error:
            print(f"{name:40} failed: {type(error).__name__}: {error}")
            if "-v" in sys.argv:
                traceback.print_exc()
            return False
    numbers = differences(cell, mine, reference)
    found = problems(cell, mine, reference)
    shown = " ".join(f"{kind} {value:.1e}" for kind, value in numbers.items())
    steps, seconds = mine.state["global_step"], time.monotonic() - started
    print(f"{name:40} {'equal' if not found else 'DIFFERS'} {steps} steps, {shown} ({seconds:.1f} s)")
    for problem in found[:4]:
        print(f"    {problem}")
    return not found


def main() -> int:
    """Compare the cells that the command names, or all; 1 if any differs."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    chosen = {name: cell for name, cell in CELLS.items() if not words or any(word in name for word in words)}
    agree = [compare(name, cell) for name, cell in chosen.items()]
    print(f"{sum(agree)} of {len(agree)} cells are equal")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
