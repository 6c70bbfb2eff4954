"""What reporting costs a training step: a tracker that sleeps a second in each call, and our own record, beside none.

    python tests/benchmarks/trackers.py [--repeats 15] [--steps 600] [--batch-size 32] [--json]

One process, one thread; the model and the clock of ``step_overhead.py``. A step takes less than a millisecond, so that
what a row costs stands out: with larger batches the machine's own unrest is more than that. Each measurement is paired
with one of ``report_to="none"`` beside it, now before it and now after. The overhead is the median of the paired
differences over the median of the base: in wall time, which a step that waits would lose, and in CPU time, which also
counts what the tracker's own thread uses. "us a row" is that difference for one logged row. None against none is the
control: where its CPU time is outside 0.99 to 1.01, the rows of its ``logging_steps`` are void.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

import torch  # noqa: E402
from step_overhead import CONTROL_RANGE, ClockedMLP, Moment, Rows, num_run_steps, silence  # noqa: E402

from hftrain.plugin_api.tracker import Tracker  # noqa: E402
from hftrain.trainer import tracking  # noqa: E402

LOGGING_STEPS = (10, 1)
WARM_UP_STEPS = 100


class Sleeps(Tracker):
    """Takes a second for each call, like a service far away."""

    api, requires, extra = 1, (), ""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        time.sleep(1)

    def finish(self, status: Any, error: str | None) -> None:
        time.sleep(1)


class Local(Tracker):
    """Keeps the record, and does nothing else: what `local` is."""

    api, requires, extra = 1, (), ""


class WatchesAll(Local):
    """Keeps histograms of gradients and parameters too, as `WANDB_WATCH=all` does, each 100 steps."""

    def watches(self) -> Collection[str]:
        return ("gradients", "parameters")


VARIANTS: dict[str, list[str]] = {
    "none": [],
    "local": ["local"],
    "sleeps 1 s a call": ["sleeps"],
    "watches all": ["watches"],
}
TRACKERS: dict[str, type[Tracker]] = {"local": Local, "sleeps": Sleeps, "watches": WatchesAll}


def measure(variant: str, *, logging_steps: int, steps: int, batch_size: int, folder: str) -> Moment:
    """Microseconds a step of one fresh run, between the two marks."""
    from hftrain import Trainer, TrainingArguments

    gc.collect()
    torch.manual_seed(0)
    model = ClockedMLP(marks=(WARM_UP_STEPS, WARM_UP_STEPS + steps))
    with silence():
        arguments = TrainingArguments(
            folder,
            report_to=VARIANTS[variant],
            max_steps=num_run_steps(steps),
            per_device_train_batch_size=batch_size,
            logging_steps=logging_steps,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            tracker_close_s=0.01,
        )
        Trainer(model, arguments, train_dataset=Rows(batch_size * 20)).train()
    begin, end = model.moments
    return Moment(cpu=(end.cpu - begin.cpu) / steps * 1e6, wall=(end.wall - begin.wall) / steps * 1e6)


def compare(logging_steps: int, *, repeats: int, steps: int, batch_size: int) -> list[dict[str, Any]]:
    """Measure every variant against none, everyone once in every repeat."""
    own: dict[str, list[Moment]] = {name: [] for name in VARIANTS}
    base: dict[str, list[Moment]] = {name: [] for name in VARIANTS}
    settings: dict[str, Any] = {"logging_steps": logging_steps, "batch_size": batch_size}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for variant in VARIANTS:  # imports and lazy initialisation are paid here
            measure(variant, steps=10, folder=folder, **settings)
        for repeat in range(repeats):
            for index, variant in enumerate(VARIANTS):
                order = [(own[variant], variant), (base[variant], "none")]
                for moments, name in order if (repeat + index) % 2 else reversed(order):
                    moments.append(measure(name, steps=steps, folder=folder, **settings))
    return [result(name, own[name], base[name], logging_steps) for name in VARIANTS]


def result(variant: str, own: list[Moment], base: list[Moment], logging_steps: int) -> dict[str, Any]:
    """Medians of the paired differences."""
    pairs = list(zip(own, base, strict=True))
    wall = statistics.median(one.wall - other.wall for one, other in pairs)
    cpu = statistics.median(one.cpu - other.cpu for one, other in pairs)
    return {
        "variant": variant,
        "logging_steps": logging_steps,
        "step_us": statistics.median(one.wall for one in base),
        "wall_ratio": 1 + wall / statistics.median(one.wall for one in base),
        "cpu_ratio": 1 + cpu / statistics.median(one.cpu for one in base),
        "row_us": cpu * logging_steps,
    }


def void_of(results: list[dict[str, Any]]) -> list[int]:
    """Return the ``logging_steps`` at which the machine was too restless to believe the rows."""
    low, high = CONTROL_RANGE
    return [row["logging_steps"] for row in results if row["variant"] == "none" and not low <= row["cpu_ratio"] <= high]


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=600, help="measured steps of each run")
    parser.add_argument("--batch-size", type=int, default=32, help="how much a step computes")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    tracking._class_of = TRACKERS.__getitem__  # type: ignore[assignment]
    settings: dict[str, Any] = {"repeats": options.repeats, "steps": options.steps, "batch_size": options.batch_size}
    results = [row for every in LOGGING_STEPS for row in compare(every, **settings)]
    void = void_of(results)
    if options.json:
        print(json.dumps({**settings, "void": void, "results": results}, indent=2))
        return int(bool(void))
    print("| reports to | logging_steps | a step, us | x none, wall | x none, CPU | us a row |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in results:
        print(
            f"| {row['variant']} | {row['logging_steps']} | {row['step_us']:.0f} | {row['wall_ratio']:.3f} | "
            f"{row['cpu_ratio']:.3f} | {row['row_us']:.0f} |"
        )
    for every in void:
        print(f"\nVOID at logging_steps={every}: none against none is outside 0.99 to 1.01; run it again.")
    return int(bool(void))


if __name__ == "__main__":
    sys.exit(main())
