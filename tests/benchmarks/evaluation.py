"""What evaluating costs: peak memory as a ratio of the predictions' size, and time beside transformers.

    python tests/benchmarks/evaluation.py [--rows 10000] [--width 5000] [--repeats 5] [--only memory,time] [--json]

Memory: a model whose predictions are (10,000, 5,000) float32, 200 MB, and a metric that copies nothing. Every figure
comes from a fresh process of one thread: resident memory at its highest during `evaluate`, less what was resident
before it, over the size of the predictions. A small evaluation before it warms everything up. "ragged" has batches of
half to full width; "torchmetrics" and "batch by batch" keep no predictions, and are measured over as many batches and
over a quarter of them: their difference should be nothing.

Time: both libraries evaluate the same model on the same data in one process, in turn; the figure is the median of
ours over the median of theirs, in CPU time. Below 1 we are faster.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

LIBRARIES = ("hftrain", "transformers")
BATCH_SIZE = 50


class Scores(nn.Module):
    """As many scores a sample as it is asked for, from 8 features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Linear(8, width)

    def forward(self, x: Tensor, columns: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)[:, : int(columns[0])]
        return {"loss": logits.square().mean(), "logits": logits}


class Rows(Dataset[dict[str, Any]]):
    """Samples made on demand, so that the data takes no memory; a batch has one width."""

    def __init__(self, num_rows: int, width: int, *, is_ragged: bool) -> None:
        self.num_rows, self.width, self.is_ragged = num_rows, width, is_ragged

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = index // BATCH_SIZE
        columns = self.width - (batch * 7919) % (self.width // 2) if self.is_ragged else self.width
        return {"x": torch.full((8,), index % 7 / 7), "columns": columns, "labels": index % 2}


def trainer(library: str, model: nn.Module, **given: Any) -> Any:
    """A Trainer of either library that says nothing."""
    module = __import__(library)
    names = ("compute_metrics", "data_collator")
    parts = {name: given.pop(name) for name in names if name in given}
    settings = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "per_device_eval_batch_size": BATCH_SIZE}
    return module.Trainer(model, module.TrainingArguments(tempfile.mkdtemp(), **{**settings, **given}), **parts)


# ---- memory -----------------------------------------------------------------------------------------


def shape_only(answers: Any, compute_result: bool = True) -> dict[str, float]:
    """A metric that copies nothing."""
    return {"columns": float(answers.predictions.shape[1])}


class Mean:
    """As much of a torchmetrics metric as an evaluation uses; the real one takes long to import."""

    def __init__(self) -> None:
        self.reset()

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take one batch."""
        self.total = self.total + preds.mean()
        self.count += 1

    def compute(self) -> Tensor:
        """Return the mean of the batches' means."""
        return self.total / self.count

    def reset(self) -> None:
        """Start afresh."""
        self.total, self.count = torch.zeros(()), 0


METRICS: dict[str, tuple[Any, dict[str, Any]]] = {
    "equal": (shape_only, {}),
    "ragged": (shape_only, {}),
    "torchmetrics": ({"mean": Mean()}, {}),
    "batch by batch": (shape_only, {"batch_eval_metrics": True}),
}


def extra_bytes(library: str, kind: str, rows: int, width: int) -> int:
    """Return the peak resident memory of one evaluation beyond what was resident before. Linux only."""
    metrics, given = METRICS[kind]
    ours = trainer(library, Scores(width), compute_metrics=metrics, **given)
    ours.evaluate(Rows(2 * BATCH_SIZE, width, is_ragged=False))
    gc.collect()
    before = _resident()
    ours.evaluate(Rows(rows, width, is_ragged=kind == "ragged"))
    return _peak() - before


def _peak() -> int:
    # Not getrusage's figure: it outlives exec, so that a child of a large process would begin with its parent's.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured_ratio(library: str, kind: str, rows: int, width: int) -> float:
    """Return `extra_bytes`, measured in a fresh process, over the size of the predictions."""
    command = [sys.executable, __file__, "--measure", library, kind, "--rows", str(rows), "--width", str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.splitlines()[-1]) / (rows * width * 4)


def memory(rows: int, width: int) -> dict[str, dict[str, float]]:
    """Return kind -> library -> ratio, and for metrics that keep nothing how it grows with the batches."""
    table: dict[str, dict[str, float]] = {}
    for kind in ("equal", "ragged"):
        table[kind] = {library: measured_ratio(library, kind, rows, width) for library in LIBRARIES}
    for kind in ("torchmetrics", "batch by batch"):
        libraries = LIBRARIES if kind == "batch by batch" else ("hftrain",)
        ratios = {
            one: (measured_ratio(one, kind, rows, width), measured_ratio(one, kind, rows // 4, width))
            for one in libraries
        }
        table[f"{kind}, whole minus quarter"] = {one: whole - quarter / 4 for one, (whole, quarter) in ratios.items()}
    return table


# ---- time -------------------------------------------------------------------------------------------


class Small(nn.Module):
    """So small that an evaluation is nearly all overhead."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Tensors(Dataset[dict[str, Any]]):
    """Rows that are there already."""

    def __init__(self, num_rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = list(torch.randn(num_rows, 64, generator=generator))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "labels": index % 8}


def fewer_rows(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Make a batch; the same function for both libraries."""
    columns = {key: [row[key] for row in batch] for key in batch[0]}
    return {key: torch.stack(v) if isinstance(v[0], Tensor) else torch.tensor(v) for key, v in columns.items()}


TIMED: dict[str, tuple[Callable[[int], nn.Module], Callable[[int, int], Any], dict[str, Any]]] = {
    "small, loss only": (lambda width: Small(), lambda rows, width: Tensors(rows), {}),
    "small, metrics": (lambda width: Small(), lambda rows, width: Tensors(rows), {"compute_metrics": shape_only}),
    "wide": (Scores, lambda rows, width: Rows(rows, width, is_ragged=False), {"compute_metrics": shape_only}),
    "ragged": (Scores, lambda rows, width: Rows(rows, width, is_ragged=True), {"compute_metrics": shape_only}),
}


def timing(rows: int, width: int, repeats: int) -> dict[str, float]:
    """Return case -> our CPU time over theirs."""
    ratios = {}
    for case, (model, data, given) in TIMED.items():
        samples = data(rows, width)
        torch.manual_seed(0)
        made = model(width)
        both = {library: trainer(library, made, data_collator=fewer_rows, **given) for library in LIBRARIES}
        seconds: dict[str, list[float]] = {library: [] for library in LIBRARIES}
        for turn in range(repeats + 1):
            for library in LIBRARIES if turn % 2 else LIBRARIES[::-1]:
                started = time.process_time()
                both[library].evaluate(samples)
                if turn:  # the first one warms up
                    seconds[library].append(time.process_time() - started)
        ours, theirs = (statistics.median(seconds[library]) for library in LIBRARIES)
        ratios[case] = ours / theirs
    return ratios


# ---- the command ------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the rows that both libraries print out of the way."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="memory,time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("LIBRARY", "KIND"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.measure:
        with quiet():
            extra = extra_bytes(*given.measure, given.rows, given.width)
        print(extra)
        return 0
    document: dict[str, Any] = {}
    with quiet():
        if "memory" in given.only:
            document["memory_ratio"] = memory(given.rows, given.width)
        if "time" in given.only:
            document["time_ratio"] = timing(given.rows, given.width, given.repeats)
    if given.json:
        print(json.dumps(document))
        return 0
    for kind, row in document.get("memory_ratio", {}).items():
        print(f"memory  {kind:<36}", "  ".join(f"{library} {ratio:5.2f}x" for library, ratio in row.items()))
    for case, ratio in document.get("time_ratio", {}).items():
        print(f"time    {case:<36} hftrain/transformers {ratio:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
