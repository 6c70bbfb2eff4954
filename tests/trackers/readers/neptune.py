"""Reads Neptune's offline runs, with its own queue."""

from __future__ import annotations

import glob
import os
import threading
from pathlib import Path
from typing import Any


def read(folder: str) -> dict[str, Any]:
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import LogFloats, Operation

    points: dict[float, float] = {}
    values: dict[str, Any] = {}
    artifacts = set()
    for place in sorted(glob.glob(f"{folder}/.neptune/offline/run__*"), key=os.path.getmtime):
        queue = DiskQueue(Path(place), lambda item: item.to_dict(), Operation.from_dict, threading.RLock())
        while (element := queue.get()) is not None:
            operation = element.obj
            if isinstance(operation, LogFloats) and operation.path == ["finetuning", "train", "loss"]:
                points |= {point.step: point.value for point in operation.values}
            elif hasattr(operation, "value"):
                values[operation.path[-1]] = operation.value
            elif type(operation).__name__ == "UploadFileSet":
                artifacts |= {operation.path[-1]} - {"files"}  # "files" is the client's own record of the source
        queue.close()
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": values,
        "status": values.get("status"),
        "artifacts": sorted(artifacts),
        "runs": None,
    }
