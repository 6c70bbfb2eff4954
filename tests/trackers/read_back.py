"""Reads, in a fresh process, what a tracker's own library has kept: ``python read_back.py TRACKER FOLDER``, as JSON.

Each file of ``readers/`` has one function, ``read(folder)``. What it returns has at least ``points`` (step -> loss, or
pairs of them as they come), ``params``, ``ends`` (status and error of each run; ``status`` is the last one's),
``artifacts``, ``runs`` (how many there are; None if its format cannot tell). Sets are printed sorted.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def main(tracker: str, folder: str) -> None:
    """Print what the tracker's reader finds in the folder."""
    # By its path: were readers/ on sys.path, its wandb.py would be what `import wandb` finds.
    path = Path(__file__).parent / "readers" / f"{tracker}.py"
    spec = importlib.util.spec_from_file_location(f"reader_of_{tracker}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps(_plain(module.read(folder)), default=str))


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    found = {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}
    if isinstance(found.get("points"), dict):
        found["points"] = sorted(found["points"].items())
    return ({"status": found["ends"][-1][0]} if found.get("ends") else {}) | found


if __name__ == "__main__":
    main(*sys.argv[1:])
