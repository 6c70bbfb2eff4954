"""What a checkpoint costs a run: how long it stops, what the write slows down, memory, loading, and a resume.

    python tests/benchmarks/checkpointing.py [--params 100] [--repeats 3] [--interval 10] [--threads 1]
                                             [--only save,write,load,resume] [--folder DIR] [--json]

A model of 100 million parameters with AdamW: 1.2 GB a checkpoint. Every training and every series of writes or loads is
a fresh process. The ratios are those of one run of this script, with what they are compared to measured in turn with
it; each figure is the median of the repeats.

save: three saves of one training, 10 s and more apart. A stall is the time from the end of a step to the begin of the
    next one, less the median of the steps without a save; the first save is one figure, the later ones another. What
    the steps that a write falls into take is set against the others. Memory is the highest resident memory from
    the first save on, less the highest of steps before any save (of hftrain with save_async=False: in the background
    memory is taken ahead), over the bytes of the checkpoint. Linux only. Control: two gaps without a save, as a stall.
write: the same bytes through the checkpoint manager (sums, fsync of all files and folders, manifest) and by
    `torch.save` and fsync, in turn, each with memory at hand. Control: `torch.save` against itself. On a machine that
    others use, the least of all says more than the median.
load: the checkpoint opened and read back into tensors, with sizes or every sum verified, beside `torch.load`.
resume: the time from the begin of training to its first step, at the start of an epoch of a million samples and at
    90 % of it, and how many samples were loaded that no step saw.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "hftrain, in the background": ("hftrain", {}),
    "hftrain, save_async=False": ("hftrain", {"save_async": False}),
    "transformers": ("transformers", {}),
}
BACKGROUND, AT_ONCE, REFERENCE = MODES
NUM_SAVES = 3
NUM_STEPS_BEFORE = 6
BATCH_SIZE = 4
FEATURES = 768


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large everything is.

    Attributes:
        params: millions of parameters.
        interval_s: between two saves, at least.
        samples: of the epoch that is resumed.
    """

    params: int
    interval_s: float
    samples: int


class Blocks(nn.Module):
    """Layers of a small transformer's sizes: four matrices of 768 x 768 a block, and two of 768 x 3072."""

    def __init__(self, params: int) -> None:
        super().__init__()
        per_block = 12 * FEATURES * FEATURES / 1e6
        sizes = [(FEATURES, FEATURES)] * 4 + [(FEATURES, 4 * FEATURES), (4 * FEATURES, FEATURES)]
        self.layers = nn.ModuleList(
            nn.Linear(*size) for _ in range(max(1, round(params / per_block))) for size in sizes
        )

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x = layer(x).relu()
        return {"loss": (x.mean(dim=1) - labels).square().mean()}


class Endless(Dataset[dict[str, Tensor]]):
    """More samples than any run sees."""

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.full((FEATURES,), index % 7 / 7), "labels": torch.tensor(index % 3 / 3)}


def trainer(library: str, model: nn.Module, folder: str, data: Any, watcher: Any, **given: Any) -> Any:
    """A Trainer of either library that says nothing."""
    module = __import__(library)
    hooks = {name: getattr(watcher, name) for name in dir(watcher) if name.startswith("on_")}
    watching = type("Watching", (module.TrainerCallback,), hooks)()
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 10**6}
    # Saves are to come, and come when the watcher asks for them.
    arguments = module.TrainingArguments(folder, save_strategy="steps", save_steps=10**6, **quiet, **given)
    return module.Trainer(model, arguments, train_dataset=data, callbacks=[watching])


# ---- a training that saves --------------------------------------------------------------------------


@dataclass
class Step:
    """One step of a training: when it began and ended, and whether a save follows it."""

    began: float
    ended: float = 0.0
    is_saved: bool = False


class Saving:
    """Asks for saves, and notes the clock and the memory."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.steps: list[Step] = []
        self.peaks: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.steps.append(Step(time.time()))
        if len(self.steps) == NUM_STEPS_BEFORE - 2:
            reset_peak()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time, and ask for a save or the end."""
        now, step = time.time(), self.steps[-1]
        step.ended = now
        saved = [one.ended for one in self.steps if one.is_saved]
        if len(self.steps) < NUM_STEPS_BEFORE or (saved and now - saved[-1] < self.interval_s):
            return
        self.peaks.append(peak_bytes())
        if len(saved) == NUM_SAVES:
            control.should_training_stop = True
            return
        step.is_saved = control.should_save = True


def measure_saves(mode: str, folder: str, size: Size) -> dict[str, Any]:
    """Train with three saves; return stalls, writes and steps in seconds, and memory over the bytes of one save."""
    library, given = MODES[mode]
    torch.manual_seed(0)
    saving = Saving(size.interval_s)
    ours = trainer(
        library, Blocks(size.params), folder, Endless(), saving, per_device_train_batch_size=BATCH_SIZE,
        max_steps=10**6, **given,
    )  # fmt: skip
    ours.train()
    steps = saving.steps[NUM_STEPS_BEFORE - 3 :]
    gaps = [(step, after.began - step.ended) for step, after in zip(steps, steps[1:], strict=False)]
    usual = [gap for step, gap in gaps if not step.is_saved]
    writes = [(step.ended, committed(folder, number)) for number, step in enumerate(saving.steps, 1) if step.is_saved]
    during: list[float] = []
    others: list[float] = []
    for step in steps:
        is_during = any(begin < step.ended and step.began < end for begin, end in writes)
        (during if is_during else others).append(step.ended - step.began)
    num_bytes = folder_bytes(checkpoints(folder)[-1])
    return {
        "bytes": num_bytes,
        "stalls_s": [gap - statistics.median(usual) for step, gap in gaps if step.is_saved],
        "control_s": usual[-1] - usual[-2],
        "writes_s": [end - begin for begin, end in writes],
        "step_s": statistics.median(others),
        "lost_s": max(0.0, sum(during) - len(during) * statistics.median(others)) / NUM_SAVES,
        "step_while_writing_s": statistics.mean(during) if during else None,
        "peak_before": saving.peaks[0],
        "peak": max(saving.peaks[1:]),
    }


def committed(folder: str, step: int) -> float:
    """When a checkpoint was whole: the time of its manifest, or of its newest file where it has none."""
    place = Path(folder, f"checkpoint-{step}")
    manifest = place / "MANIFEST.json"
    return max(path.stat().st_mtime for path in ([manifest] if manifest.exists() else place.iterdir()))


def checkpoints(folder: str) -> list[Path]:
    """The checkpoints in a folder, by step."""
    return sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def folder_bytes(folder: Path) -> int:
    """How large its files are together."""
    return sum(path.stat().st_size for path in folder.iterdir())


def reset_peak() -> None:
    """Let `peak_bytes` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The highest resident memory since `reset_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


# ---- the same bytes, written and read ---------------------------------------------------------------


class Alone:
    """The processes of a run of one."""

    process_index, world_size = 0, 1

    def barrier(self) -> None:
        """Nobody else is waited for."""

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Return what everyone has."""
        return obj

    def gather_object(self, obj: Any) -> list[Any]:
        """Return everyone's."""
        return [obj]


def stepped(params: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer after one step."""
    torch.manual_seed(0)
    model = Blocks(params)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def save_by_manager(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write and commit one checkpoint."""
    from hftrain.checkpoint import contents
    from hftrain.checkpoint.manager import CheckpointManager

    manager = CheckpointManager(folder, run_id="benchmark", ranks=Alone())
    parts = [
        contents.model_part(model.state_dict()),
        contents.optimizer_part(optimizer, contents.parameter_names(model)),
    ]
    manager.save(1, parts, epoch=0.0, samples=1)


def save_by_torch(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the same tensors by `torch.save`, and fsync."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/state.pt", "wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())


def measure_writes(mode: str, folder: str, size: Size) -> dict[str, list[float]]:
    """Write in turn, six times each; return the seconds. The files of one are gone before the next one begins."""
    model, optimizer = stepped(size.params)
    seconds: dict[str, list[float]] = {"hftrain": [], "torch.save and fsync": [], "control": []}
    ways = [("control", save_by_torch), ("hftrain", save_by_manager), ("torch.save and fsync", save_by_torch)]
    for turn in range(7):
        for name, save in ways[turn % 3 :] + ways[: turn % 3]:
            have_memory(16_000_000 * size.params)
            begin = time.perf_counter()
            save(f"{folder}/written", model, optimizer)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - begin)
            shutil.rmtree(f"{folder}/written")
    return seconds


def have_memory(num_bytes: int) -> None:
    """Take memory and give it back: a virtual machine may have to ask its host for what it has not used for long."""
    torch.ones(num_bytes, dtype=torch.uint8)


def load_by_hftrain(path: str, verify: Any) -> None:
    """Read model and optimizer."""
    from hftrain.checkpoint.reader import open_checkpoint

    reader = open_checkpoint(path, verify=verify)
    reader.part("model"), reader.part("optimizer")


def measure_loads(mode: str, folder: str, size: Size) -> dict[str, list[float]]:
    """Read in turn, three times each, from files that the system still holds in memory; return the seconds."""
    model, optimizer = stepped(size.params)
    save_by_manager(f"{folder}/hftrain", model, optimizer)
    save_by_torch(f"{folder}/torch", model, optimizer)
    del model, optimizer
    place = f"{folder}/hftrain/checkpoint-1"
    ways: dict[str, Callable[[], Any]] = {
        "hftrain, every sum": lambda: load_by_hftrain(place, "full"),
        "hftrain, sizes": lambda: load_by_hftrain(place, "sizes"),
        "torch.load": lambda: torch.load(f"{folder}/torch/state.pt", weights_only=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(4):
        for name, load in ways.items():
            begin = time.perf_counter()
            load()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


# ---- a resume ---------------------------------------------------------------------------------------


class Numbered(Dataset[Any]):
    """Samples that are a number, and a count of how often one was asked for."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.num_loaded = 0

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.num_loaded += 1
        return {"x": torch.full((1,), index / self.num_samples), "labels": torch.zeros(1)}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        self.num_loaded += len(indices)
        one = {"x": torch.zeros(1), "labels": torch.zeros(1)}
        return [one] * len(indices)


class Line(nn.Module):
    """As little as can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.net(x) - labels).square().mean()}


class Beginning:
    """Notes when training and its first step begin, and what was loaded by then; then saves, if asked, and stops."""

    def __init__(self, data: Numbered, *, stop_at: int, is_saved: bool) -> None:
        self.data, self.stop_at, self.is_saved = data, stop_at, is_saved
        self.began = self.seconds = 0.0
        self.num_loaded = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.began = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time and the samples loaded, once."""
        if self.num_loaded < 0:
            self.seconds, self.num_loaded = time.perf_counter() - self.began, self.data.num_loaded

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        if state.global_step >= self.stop_at:
            control.should_training_stop, control.should_save = True, self.is_saved


def measure_resume(mode: str, folder: str, size: Size) -> dict[str, float]:
    """Train 90 % of an epoch, resume; return seconds before the first step, and samples loaded for nothing."""
    library = MODES[mode][0]
    batch = max(1, size.samples // 1000)

    def first_step(stop_at: int, *, is_saved: bool = False, **resumed: Any) -> Beginning:
        data = Numbered(size.samples)
        beginning = Beginning(data, stop_at=stop_at, is_saved=is_saved)
        settings = {"per_device_train_batch_size": batch, "num_train_epochs": 1}
        trainer(library, Line(), folder, data, beginning, **settings).train(**resumed)
        return beginning

    first_step(900, is_saved=True)
    fresh, resumed = first_step(1), first_step(901, resume_from_checkpoint=True)
    return {
        "fresh_s": fresh.seconds,
        "resumed_s": resumed.seconds,
        "skipping_s": max(0.0, resumed.seconds - fresh.seconds),
        "samples_for_nothing": resumed.num_loaded - fresh.num_loaded,
    }


# ---- the command ------------------------------------------------------------------------------------

MEASURES: dict[str, tuple[Callable[[str, str, Size], Any], tuple[str, ...]]] = {
    "save": (measure_saves, (BACKGROUND, REFERENCE, AT_ONCE)),
    "write": (measure_writes, (BACKGROUND,)),
    "load": (measure_loads, (BACKGROUND,)),
    "resume": (measure_resume, (BACKGROUND, REFERENCE)),
}


def in_fresh_process(measure: str, mode: str, options: argparse.Namespace) -> Any:
    """Return what a measurement gives in a process of its own, in a folder that is gone afterwards."""
    sizes = ("params", "interval", "samples", "threads")
    given = [text for name in sizes for text in (f"--{name}", str(getattr(options, name)))]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, __file__, "--measure", measure, mode, "--folder", folder, *given]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def median(results: list[dict[str, Any]], *path: Any) -> float | None:
    """The median over the repeats of one figure; lists in it are taken apart."""
    found: list[float] = []
    for result in results:
        value: Any = result
        for key in path:
            value = value[key]
        found += value if isinstance(value, list) else [] if value is None else [value]
    return statistics.median(found) if found else None


def save_figures(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float | None]]:
    """What each mode's saves came to."""
    figures = {}
    for mode, runs in results.items():
        # In the background memory is taken ahead of the first save: what steps take without is seen beside it.
        without_saves = median(results[AT_ONCE if mode == BACKGROUND else mode], "peak_before") or 0.0
        steps = median(runs, "step_s"), median(runs, "step_while_writing_s")
        figures[mode] = {
            "bytes": median(runs, "bytes"),
            "first_stall_s": statistics.median(run["stalls_s"][0] for run in runs),
            "later_stall_s": statistics.median(stall for run in runs for stall in run["stalls_s"][1:]),
            "control_s": median(runs, "control_s"),
            "write_s": median(runs, "writes_s"),
            "step_s": steps[0],
            "lost_s": median(runs, "lost_s"),
            "slowdown": steps[1] / steps[0] if steps[0] and steps[1] else None,
            "memory": ((median(runs, "peak") or 0.0) - without_saves) / (median(runs, "bytes") or 1.0),
        }
    reference = figures.get(REFERENCE, {}).get("first_stall_s"), figures.get(REFERENCE, {}).get("later_stall_s")
    for row in figures.values():
        for name, theirs in zip(("first_stall", "later_stall"), reference, strict=True):
            row[f"{name}_ratio"] = (row[f"{name}_s"] or 0.0) / theirs if theirs else None
    return figures


def series_figures(runs: list[dict[str, list[float]]], beside: str) -> dict[str, dict[str, float]]:
    """Median and least seconds, and both over those of what they are compared to."""
    found = {name: [seconds for run in runs for seconds in run[name]] for name in runs[0]}
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return {
        name: {
            "seconds": medians[name],
            "ratio": medians[name] / medians[beside],
            "least_s": min(seconds),
            "least_ratio": min(seconds) / min(found[beside]),
        }
        for name, seconds in found.items()
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that was asked for, in turn; the load of the machine before and after is part of the result."""
    document: dict[str, Any] = {"repeats": options.repeats, "threads": options.threads, "load_before": os.getloadavg()}
    results: dict[str, dict[str, list[Any]]] = {name: {} for name in options.only.split(",")}
    for turn in range(options.repeats):
        for name, by_mode in results.items():
            modes = MEASURES[name][1]
            for mode in modes if turn % 2 == 0 else modes[::-1]:
                by_mode.setdefault(mode, []).append(in_fresh_process(name, mode, options))
                if options.verbose:
                    print(turn, name, mode, by_mode[mode][-1], os.getloadavg(), file=sys.stderr)
    if "save" in results:
        document["save"] = save_figures(results["save"])
    if "write" in results:
        document["write"] = series_figures(results["write"][BACKGROUND], "torch.save and fsync")
    if "load" in results:
        document["load"] = series_figures(results["load"][BACKGROUND], "torch.load")
    if "resume" in results:
        document["resume"] = {
            mode: {name: median(runs, name) for name in runs[0]} for mode, runs in results["resume"].items()
        }
    return document | {"load_after": os.getloadavg()}


def print_table(document: dict[str, Any]) -> None:
    """Print a row for each figure."""
    for name in ("save", "write", "load", "resume"):
        for row, figures in document.get(name, {}).items():
            shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items() if value is not None)
            print(f"{name:7} {row:28} {shown}")
    print("load of the machine before and after:", document["load_before"], document["load_after"])


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
    parser.add_argument("--params", type=int, default=100, help="millions of parameters")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two saves, at least")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of the epoch that is resumed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--folder", help="where the files go; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--verbose", action="store_true", help="each measurement as it comes")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "MODE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads)
        size = Size(params=options.params, interval_s=options.interval, samples=options.samples)
        with quiet():
            result = MEASURES[options.measure[0]][0](options.measure[1], options.folder, size)
        print(json.dumps(result))
        return 0
    document = measured(options)
    if options.json:
        print(json.dumps(document))
    else:
        print_table(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
