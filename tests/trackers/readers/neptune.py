"""Reads Neptune's offline runs, with the queue and the operations of its own client."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read(folder: str) -> dict[str, Any]:
    points: dict[float, float] = {}
    params: dict[str, Any] = {}
    ends, ids, groups, artifacts, media = [], set(), set(), set(), set()
    for place in sorted(glob.glob(f"{folder}/.neptune/offline/run__*"), key=os.path.getmtime):
        values: dict[str, Any] = {}
        for operation in _operations(place):
            path = operation.path
            if type(operation).__name__ == "LogFloats" and path[-2:] == ["train", "loss"]:
                points |= {point.step: point.value for point in operation.values}
            elif hasattr(operation, "value"):
                values["/".join(path)] = operation.value
            elif path[:2] == ["finetuning", "artifacts"]:
                artifacts.add(path[2])
            elif path[:2] == ["finetuning", "media"]:
                media.add(path[2])
            elif path == ["sys", "group_tags"]:
                groups |= set(operation.values)
        params |= {name.rpartition("/")[2]: value for name, value in values.items()}
        ends.append([values.get("finetuning/status"), values.get("finetuning/error")])
        ids.add(values.get("hftrain/run_id"))
    return {
        "points": points,
        "params": params,
        "ends": ends,
        "groups": groups,
        "artifacts": artifacts,
        "media": media,
        "runs": len(ends),
        "ids": len(ids),
    }


def _operations(place: str) -> Iterator[Any]:
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import Operation

    queue = DiskQueue(Path(place), lambda item: item.to_dict(), Operation.from_dict, threading.RLock())
    while (element := queue.get()) is not None:
        yield element.obj
    queue.close()
