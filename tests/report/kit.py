"""Runs for the page's tests: records as a training writes them, in a few lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hftrain.plugin_api.spool import Spool
from hftrain.report.runs import RunData, read_run

TIMING = {"data": 0.25, "compute": 0.5, "log": 0.125, "eval": 0.0, "save": 0.125, "steps": 10}


def losses(num_rows: int, *, scale: float = 1.0) -> list[float]:
    return [scale * math.exp(-step / num_rows) for step in range(1, num_rows + 1)]


def make_run(
    folder: Path,
    *,
    name: str | None = "mine",
    rows: int = 20,
    scale: float = 1.0,
    status: str | None = "finished",
    error: str | None = None,
    media: list[dict[str, Any]] | None = None,
    odd: Mapping[int, str] | None = None,
    **arguments: Any,
) -> RunData:
    """Write a run of ``rows`` rows, one each ten steps, with an evaluation after every fifth, and read it back.

    ``odd`` gives losses that are not finite, by their step.
    """
    spool = Spool(str(folder))
    told = {"seed": 42, "learning_rate": 0.001} | arguments
    environment = {"python": "3.11", "device": "cpu"}
    spool.append("start", step=0, data={"name": name, "arguments": told, "environment": environment})
    for number, loss in enumerate(losses(rows, scale=scale), start=1):
        step = number * 10
        row: dict[str, Any] = {
            "loss": (odd or {}).get(step, loss),
            "learning_rate": 0.001 * (1 - number / rows),
            "grad_norm": 2 * loss,
            "timing": TIMING,
        }
        spool.append("log", step=step, epoch=number / 10, data=row)
        if number % 5 == 0:
            spool.append("log", step=step, data={"eval_loss": loss * 1.5, "eval_accuracy": 1 - loss / 4})
            spool.append("checkpoint", step=step, data={"name": f"checkpoint-{step}", "path": f"out/checkpoint-{step}"})
    for one in media or []:
        spool.append("media", step=rows * 10, data=one)
    if status is not None:
        spool.append("finish", step=rows * 10, data={"status": status, "error": error})
    spool.close()
    return read_run(str(folder))
