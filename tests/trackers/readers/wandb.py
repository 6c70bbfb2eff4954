"""Reads the offline runs, with W&B's own protobuf."""

from __future__ import annotations

import glob
import json
import struct
from collections.abc import Iterator
from typing import Any


def read(folder: str) -> dict[str, Any]:
    paths = sorted(glob.glob(f"{folder}/wandb/offline-run-*/*.wandb"))
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    artifacts, ids, code = [], set(), None
    for path in paths:
        for record in _records(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = _items(record.history.item)
                if "train/loss" in row:
                    points[row["train/global_step"]] = row["train/loss"]
            elif kind in ("config", "run"):
                params |= _items((record.config if kind == "config" else record.run.config).update)
                ids |= {record.run.run_id} if kind == "run" else set()
            elif kind == "summary":
                summary |= _items(record.summary.update)
            elif kind == "exit":
                code = record.exit.exit_code
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                artifacts.append(record.request.log_artifact.artifact.name)
            elif kind == "artifact":
                artifacts.append(record.artifact.name)
    status = f"{summary.get('status')} {code}"
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": status,
        "artifacts": sorted(artifacts),
        "runs": len(ids),
    }


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(path: str) -> Iterator[Any]:
    """LevelDB's log framing around wandb's own protobuf: a header of 7 bytes, then blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    with open(path, "rb") as file:
        data = file.read()
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            place += left
            continue
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
