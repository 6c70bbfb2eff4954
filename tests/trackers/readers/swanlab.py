"""Reads SwanLab's own record files, with SwanLab's own reader and protobuf."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Any


def read(folder: str) -> dict[str, Any]:
    import yaml

    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ends, ids, groups, media, projects, artifacts = [], set(), set(), set(), set(), set()
    for path in sorted(glob.glob(f"{folder}/swanlog/run-*/*.swanlab"), key=os.path.getmtime):
        if not os.path.getsize(path):  # of a killed process
            continue
        for kind, record in _records(path):
            if kind == "start":
                ids.add(record.start.id)
                projects.add(record.start.project)
                groups |= {record.start.group} if record.start.group else set()
            elif kind == "scalar" and record.scalar.key == "train/loss":
                points[record.scalar.step] = record.scalar.value.number
            elif kind == "save" and record.save.type == 0:
                artifacts.add(record.save.name.partition("/")[0])
            elif kind == "media":
                media.add(record.media.key)
        with open(f"{os.path.dirname(path)}/files/config.yaml", encoding="utf-8") as file:
            own = {name: row["value"] for name, row in yaml.safe_load(file).items()}
        params |= own
        ends.append([own.get("run_status"), own.get("error")])
    return {
        "points": points,
        "params": params,
        "ends": ends,
        "groups": groups,
        "artifacts": artifacts,
        "media": media,
        "runs": len(ids),
        "project": ", ".join(projects),
    }


def _records(path: str) -> Iterator[tuple[str, Any]]:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    reader.open(path)
    while (raw := reader.scan()) is not None:
        record = Record()
        record.ParseFromString(raw)
        yield record.WhichOneof(record.DESCRIPTOR.oneofs[0].name), record
