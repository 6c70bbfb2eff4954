"""Reads the offline runs, with W&B's own protobuf."""

from __future__ import annotations

import glob
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

_STATUS = {0: ("finished", "pruned"), 1: ("failed",), 255: ("interrupted",)}
"""The words of ours that go with an exit code, which W&B shows as Finished, Failed or Killed."""


def read(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {"points": {}, "params": {}, "artifacts": {}, "media": set(), "metrics": {}}
    found |= {"histograms": {}, "files": {}}
    runs: dict[str, Any] = {}
    for path in sorted(glob.glob(f"{folder}/**/offline-run-*/*.wandb", recursive=True), key=os.path.getmtime):
        summary: dict[str, Any] = {}
        run_id = ""
        for record in _records(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                _take_row(_items(record.history.item), found)
            elif kind == "config":
                found["params"] |= _items(record.config.update)
            elif kind == "run":
                run_id = record.run.run_id
                runs[run_id] = {"run": record.run}
                found["params"] |= _items(record.run.config.update)
            elif kind == "summary":
                summary |= _items(record.summary.update)
            elif kind == "exit":
                code, status = record.exit.exit_code, summary.get("status")
                assert status in _STATUS[code], (status, code)
                runs[run_id]["end"] = [status, summary.get("error")]
            elif (artifact := _artifact(record)) is not None:
                found["artifacts"].setdefault(artifact.name, []).append(sorted(artifact.aliases))
                files = {file.path: file.digest for file in artifact.manifest.contents}
                found["files"].setdefault(artifact.name, []).append(files)
    points = found["points"]
    told = [one["run"] for one in runs.values()]
    ends = [one.get("end", [None, None]) for one in runs.values()]
    return {
        "points": points,
        "params": found["params"],
        "metrics": found["metrics"],
        "status": ends[-1][0] if ends else None,
        "artifacts": sorted(found["artifacts"]),
        "aliases": found["artifacts"],
        "files": found["files"],
        "histograms": found["histograms"],
        "media": sorted(found["media"]),
        "runs": len(runs),
        "ends": ends,
        "groups": sorted({run.run_group for run in told if run.run_group}),
        "names": [run.display_name for run in told],
        "projects": [run.project for run in told],
    }


def _take_row(row: dict[str, Any], found: dict[str, Any]) -> None:
    if "train/loss" in row:
        found["points"][row["train/global_step"]] = row["train/loss"]
    # A value that is seen has its type in a key below its own; gradients and parameters are named by their kind.
    found["media"] |= {name.partition("/_type")[0] for name in row if name.endswith("/_type")}
    found["media"] |= {name for name, value in row.items() if isinstance(value, dict) and "_type" in value}
    for name in (name.removesuffix("/bins") for name in row if name.endswith("/bins")):
        seen = [row["train/global_step"], row[f"{name}/values"], row[f"{name}/bins"]]
        found["histograms"].setdefault(name, []).append(seen)
    found["metrics"] |= {name: value for name, value in row.items() if isinstance(value, (int, float, str))}


def _artifact(record: Any) -> Any:
    if record.WhichOneof("record_type") == "artifact":
        return record.artifact
    if record.WhichOneof("record_type") == "request" and record.request.HasField("log_artifact"):
        return record.request.log_artifact.artifact
    return None


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
