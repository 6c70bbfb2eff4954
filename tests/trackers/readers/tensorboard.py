"""Reads the event files, with TensorBoard's own reader."""

from __future__ import annotations

import glob
import json
import os
from typing import Any


def read(folder: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(glob.glob(f"{folder}/**/events.out*", recursive=True), key=os.path.getmtime)
    runs = []
    for logs in dict.fromkeys(os.path.dirname(path) for path in files):
        found = EventAccumulator(logs, size_guidance=dict.fromkeys(("scalars", "tensors", "images", "histograms"), 0))
        found.Reload()
        runs.append(_run(found))
    last = runs[-1]
    return {
        **last,
        "folders": list(dict.fromkeys(os.path.relpath(os.path.dirname(path), folder) for path in files)),
        "runs": len(runs),
        "groups": [name for name in ("search-1",) if any(f"/{name}/" in path for path in files)],
        "ends": [run["status"].split(": ", 1) if ": " in run["status"] else [run["status"], None] for run in runs],
    }


def _run(found: Any) -> dict[str, Any]:
    tags = found.Tags()

    def text(tag: str) -> str:
        name = f"{tag}/text_summary"
        if name not in tags["tensors"]:
            return "{}"
        return str(found.Tensors(name)[-1].tensor_proto.string_val[0].decode())

    facts = ("args", "model_config", "status", "environment", "trial")
    texts = [name.removesuffix("/text_summary") for name in tags["tensors"]]
    return {
        "points": [[event.step, event.value] for event in found.Scalars("train/loss")],
        "metrics": {tag: found.Scalars(tag)[-1].value for tag in tags["scalars"]},
        "params": {**json.loads(text("args")), **json.loads(text("model_config")), **json.loads(text("trial"))},
        "status": text("status"),
        "artifacts": [],
        "media": sorted([*tags["images"], *tags["histograms"], *(name for name in texts if name not in facts)]),
    }
