"""Reads the event files, with TensorBoard's own reader."""

from __future__ import annotations

import glob
import json
import os
from typing import Any


def read(folder: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logs,) = {os.path.dirname(path) for path in glob.glob(f"{folder}/out/runs/*/events.out*")}
    found = EventAccumulator(logs, size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()

    def text(tag: str) -> str:
        return str(found.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode())

    return {
        "points": [[event.step, event.value] for event in found.Scalars("train/loss")],
        "params": {**json.loads(text("args")), **json.loads(text("model_config"))},
        "status": text("status"),
        "artifacts": [],
        "runs": 1,
    }
