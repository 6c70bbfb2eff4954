"""How fast a stage was, as the rows of a run say it."""

from __future__ import annotations

import time


def speed_metrics(
    split: str,
    start_time: float,
    num_samples: int | None = None,
    num_steps: int | None = None,
    num_tokens: int | None = None,
) -> dict[str, float]:
    """Return the runtime in seconds since ``start_time``, and what was done per second of it.

    Args:
        split: put before every name, such as "train" or "eval".
        start_time: what `time.time` returned when the stage began.
        num_samples: samples seen since then; None leaves their row out, as for the next two.
        num_steps: steps made.
        num_tokens: tokens read.
    """
    seconds = time.time() - start_time
    counts = {"samples": num_samples, "steps": num_steps, "tokens": num_tokens}
    metrics = {f"{split}_runtime": round(seconds, 4)}
    if seconds > 0:
        rates = {name: count / seconds for name, count in counts.items() if count is not None}
        metrics.update({f"{split}_{name}_per_second": round(rate, 3) for name, rate in rates.items()})
    return metrics
