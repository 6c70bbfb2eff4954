"""Which checkpoints of a run are being uploaded: whoever uploads one names it in a file, and retention reads that.

``<output_dir>/runs/<run_id>/held.json`` is ``{"v": 1, "held": ["checkpoint-<step>", ...]}``. It outlives the process,
as an upload that another one finishes does.
"""

from __future__ import annotations

from hftrain.checkpoint.layout import load_json
from hftrain.checkpoint.storage import Storage, join
from hftrain.errors import TornCheckpointError

HELD = "held.json"
_MAX_BYTES = 1 << 20


def held_names(storage: Storage, output_dir: str, run_id: str) -> frozenset[str]:
    """The names of the folders that must stay as they are; none if there is no such file.

    Raises:
        TornCheckpointError: it is not what it should be, so that nothing tells which folders are safe to touch.
        OSError: it cannot be read.
    """
    path = join(output_dir, "runs", run_id, HELD)
    try:
        with storage.read(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return frozenset()
    document = load_json(data[:_MAX_BYTES], name=path)
    names = document.get("held") if isinstance(document, dict) and document.get("v") == 1 else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TornCheckpointError(f'{path} is not {{"v": 1, "held": [names]}}. Remove it if nothing is being uploaded.')
    return frozenset(names)
