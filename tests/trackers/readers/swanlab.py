"""Reads SwanLab's offline runs, with its own reader."""

from __future__ import annotations

import glob
import os
from typing import Any


def read(folder: str) -> dict[str, Any]:
    import yaml
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ids = set()
    for path in sorted(glob.glob(f"{folder}/swanlog/run-*/*.swanlab"), key=os.path.getmtime):
        reader = DataStoreReader()
        reader.open(path)
        while (raw := reader.scan()) is not None:
            record = Record()
            record.ParseFromString(raw)
            kind = record.WhichOneof(record.DESCRIPTOR.oneofs[0].name)
            if kind == "start":
                ids.add(record.start.id)
            if kind == "scalar" and record.scalar.key == "train/loss":
                points[record.scalar.step] = record.scalar.value.number
        with open(f"{os.path.dirname(path)}/files/config.yaml", encoding="utf-8") as file:
            params |= {name: row["value"] for name, row in yaml.safe_load(file).items()}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": params.get("run_status"),
        "artifacts": [],
        "runs": len(ids),
    }
