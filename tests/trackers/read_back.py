"""Reads, in a fresh process, what a tracker's own library has kept: ``python read_back.py TRACKER FOLDER``, as JSON.

Each file of ``readers/`` has one function, ``read(folder)``. What it returns has at least ``points`` ([step, loss]),
``params``, ``status``, ``artifacts``, ``runs`` (how many there are; None if its format cannot tell).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path


def main(tracker: str, folder: str) -> None:
    """Print what the tracker's reader finds in the folder."""
    # By its path: were readers/ on sys.path, its wandb.py would be what `import wandb` finds.
    path = Path(__file__).parent / "readers" / f"{tracker}.py"
    spec = importlib.util.spec_from_file_location(f"reader_of_{tracker}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps(module.read(folder), default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
