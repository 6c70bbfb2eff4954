"""What one optimizer step costs beyond a hand-written loop, in microseconds and as a ratio.

    python tests/benchmarks/step_overhead.py [--repeats 15] [--steps 600] [--only raw,hftrain-task] [--json]

One process, one thread: an MLP 64-64-64-1, batch 16, AdamW, clipping at 1.0, a linear schedule, the loss, learning rate
and gradient norm logged every 10 steps. Everyone gets the same dataset, collate function, model and optimizer settings.

How it is measured: every run makes its own model and trainer. Two moments are taken by the model itself, when its
forward is called for the 101st time and, 600 steps later, for the last but one time, so start-up and the end of a run
are left out and the clock costs everyone the same. Each measurement of a framework is paired with one of the raw loop
beside it, now before it and now after; the overhead is the median of the paired differences in CPU time, which other
programs on the machine disturb least. Raw against raw is the control: outside 0.99 to 1.01 the run is void.
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
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, default_collate

WARM_UP_STEPS = 100
BATCH_SIZE = 16
NUM_FEATURES = 64
LEARNING_RATE = 1e-3
MAX_NORM = 1.0
LOGGING_STEPS = 10
CONTROL_RANGE = (0.99, 1.01)


@dataclass(frozen=True)
class Moment:
    """The two clocks at one step, in seconds."""

    cpu: float
    wall: float

    @staticmethod
    def now() -> Moment:
        return Moment(cpu=time.process_time(), wall=time.perf_counter())


class Rows(Dataset[dict[str, Tensor]]):
    """Samples of one run: as many as its steps take, so that no epoch ends inside it."""

    def __init__(self, num_samples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(num_samples, NUM_FEATURES, generator=generator)
        self.labels = self.x.mean(dim=1, keepdim=True).sin()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.labels[index]}


class ClockedMLP(nn.Module):
    """The model everyone trains; it notes the time when a step begins that is listed in ``marks``."""

    def __init__(self, marks: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(NUM_FEATURES, NUM_FEATURES),
            nn.ReLU(),
            nn.Linear(NUM_FEATURES, NUM_FEATURES),
            nn.ReLU(),
            nn.Linear(NUM_FEATURES, 1),
        )
        self.marks = marks
        self.num_calls = 0
        self.moments: list[Moment] = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.num_calls in self.marks:
            self.moments.append(Moment.now())
        self.num_calls += 1
        return {"loss": functional.mse_loss(self.body(x), labels)}


@dataclass(frozen=True, kw_only=True)
class Work:
    """One run: train ``model`` on ``data`` for ``steps`` steps, leaving files under ``folder`` if need be."""

    model: ClockedMLP
    data: Rows
    steps: int
    folder: str


def adamw_and_linear(model: nn.Module, steps: int) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """What a hand-written loop makes before its first step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / steps))


def raw(work: Work) -> None:
    """The loop a good engineer writes by hand: it reads from the device when it logs, and only then."""
    model = work.model
    optimizer, scheduler = adamw_and_linear(model, work.steps)
    rows = []
    total = torch.zeros(())
    for step, batch in enumerate(DataLoader(work.data, batch_size=BATCH_SIZE, shuffle=True), start=1):
        loss = model(**batch)["loss"]
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        total += loss.detach()
        if step % LOGGING_STEPS == 0:
            mean = total.item() / LOGGING_STEPS
            rows.append({"loss": mean, "grad_norm": norm.item(), "learning_rate": scheduler.get_last_lr()[0]})
            total.zero_()


def fabric(work: Work) -> None:
    """The same loop with Fabric's wrapped module, optimizer and loader."""
    from lightning.fabric import Fabric

    engine = Fabric(accelerator="cpu", devices=1)
    optimizer, scheduler = adamw_and_linear(work.model, work.steps)
    model, optimizer = engine.setup(work.model, optimizer)
    loader = engine.setup_dataloaders(DataLoader(work.data, batch_size=BATCH_SIZE, shuffle=True))
    rows = []
    total = torch.zeros(())
    for step, batch in enumerate(loader, start=1):
        loss = model(**batch)["loss"]
        engine.backward(loss)
        norm: Any = engine.clip_gradients(model, optimizer, max_norm=MAX_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        total += loss.detach()
        if step % LOGGING_STEPS == 0:
            mean = total.item() / LOGGING_STEPS
            rows.append({"loss": mean, "grad_norm": norm.item(), "learning_rate": scheduler.get_last_lr()[0]})
            total.zero_()


def trainer_arguments(work: Work) -> dict[str, Any]:
    """What both Trainers are told; what isn't here keeps its default."""
    return {
        "output_dir": work.folder,
        "max_steps": work.steps,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "logging_steps": LOGGING_STEPS,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }


def transformers(work: Work) -> None:
    """``transformers.Trainer``, without its progress bar and without accelerate's metadata scan in every step."""
    import accelerate.optimizer  # type: ignore[import-untyped]
    from transformers import Trainer, TrainerCallback, TrainingArguments  # type: ignore[attr-defined]

    # With lomo-optim installed this re-parses package metadata twice a step, +700 us that are nobody's training loop.
    accelerate.optimizer.is_lomo_available = lambda: False

    class NoOp(TrainerCallback):
        pass

    arguments = TrainingArguments(**trainer_arguments(work), disable_tqdm=True)
    trainer: Any = Trainer(  # type: ignore[no-untyped-call]
        work.model, arguments, data_collator=default_collate, train_dataset=work.data, callbacks=[NoOp()]
    )
    trainer.train()


def lightning(work: Work) -> None:
    """Lightning's Trainer: the loss logged in memory, its bar, summary and checkpoints off."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers.logger import Logger

    class Memory(Logger):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[dict[str, float]] = []

        name, version = "memory", 0

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            self.rows.append(dict(metrics))

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            """Nothing to keep."""

    class NoOp(pl.Callback):
        pass

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = work.model

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self.net(**batch)["loss"]
            self.log("loss", loss.detach())
            return loss

        def configure_optimizers(self) -> Any:
            optimizer, scheduler = adamw_and_linear(self, work.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=work.steps,
        gradient_clip_val=MAX_NORM,
        log_every_n_steps=LOGGING_STEPS,
        logger=Memory(),
        callbacks=[NoOp()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(Module(), DataLoader(work.data, batch_size=BATCH_SIZE, shuffle=True))


def hftrain_task(work: Work, report_to: str = "none") -> None:
    """hftrain, first door: a TaskModule and a DataModule."""
    from hftrain import DataModule, TaskModule, Trainer, TrainerCallback, TrainingArguments

    class NoOp(TrainerCallback):
        pass

    class Task(TaskModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = work.model

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            loss: Tensor = self.net(**batch)["loss"]
            return loss

    Trainer(
        model=Task(),
        args=TrainingArguments(**{**trainer_arguments(work), "report_to": report_to}),
        datamodule=DataModule(train=work.data),
        callbacks=[NoOp()],
    ).train()


def hftrain_local(work: Work) -> None:
    """The same, with the run's own record of its rows, which the default keeps too."""
    hftrain_task(work, report_to="local")


def hftrain_trainer(work: Work) -> None:
    """hftrain, second door: what a script written for ``transformers.Trainer`` says."""
    from hftrain import Trainer, TrainerCallback, TrainingArguments

    class NoOp(TrainerCallback):
        pass

    Trainer(
        work.model,
        TrainingArguments(**trainer_arguments(work)),
        data_collator=default_collate,
        train_dataset=work.data,
        callbacks=[NoOp()],
    ).train()


VARIANTS: dict[str, Callable[[Work], None]] = {
    "raw": raw,
    "fabric": fabric,
    "transformers": transformers,
    "lightning": lightning,
    "hftrain-task": hftrain_task,
    "hftrain-local": hftrain_local,
    "hftrain-trainer": hftrain_trainer,
}
TITLES = {
    "raw": "raw loop (control: raw against raw)",
    "fabric": "Fabric with its wrappers",
    "transformers": "transformers.Trainer",
    "lightning": "Lightning Trainer",
    "hftrain-task": "hftrain, TaskModule door",
    "hftrain-local": 'the same, report_to="local"',
    "hftrain-trainer": "hftrain, Trainer door",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table; times are medians of microseconds a step."""

    variant: str
    cpu_us: float
    wall_us: float
    over_us: float
    ratio: float
    wall_ratio: float


@dataclass
class Pairs:
    """Paired measurements of one variant and of the raw loop beside it, microseconds a step."""

    own: list[Moment] = field(default_factory=list)
    raw: list[Moment] = field(default_factory=list)

    def result(self, variant: str) -> Result:
        """Medians of the paired differences over the median of the raw loop."""
        over = statistics.median(own.cpu - base.cpu for own, base in zip(self.own, self.raw, strict=True))
        over_wall = statistics.median(own.wall - base.wall for own, base in zip(self.own, self.raw, strict=True))
        return Result(
            variant=variant,
            cpu_us=statistics.median(own.cpu for own in self.own),
            wall_us=statistics.median(own.wall for own in self.own),
            over_us=over,
            ratio=1 + over / statistics.median(base.cpu for base in self.raw),
            wall_ratio=1 + over_wall / statistics.median(base.wall for base in self.raw),
        )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the frameworks' bars, rows and hints from the terminal; what they cost to make is still measured."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def measure(variant: str, *, steps: int, folder: str) -> Moment:
    """Microseconds a step of one fresh run, between the two marks."""
    gc.collect()
    torch.manual_seed(0)
    model = ClockedMLP(marks=(WARM_UP_STEPS, WARM_UP_STEPS + steps))
    data = Rows(BATCH_SIZE * num_run_steps(steps))
    with silence():
        VARIANTS[variant](Work(model=model, data=data, steps=num_run_steps(steps), folder=folder))
    if model.num_calls != num_run_steps(steps):
        raise RuntimeError(f"{variant} called the model {model.num_calls} times in {num_run_steps(steps)} steps.")
    begin, end = model.moments
    return Moment(cpu=(end.cpu - begin.cpu) / steps * 1e6, wall=(end.wall - begin.wall) / steps * 1e6)


def num_run_steps(steps: int) -> int:
    """Steps of a whole run: warm-up, what is measured, and one more whose forward stops the clock."""
    return WARM_UP_STEPS + steps + 1


def compare(variants: Sequence[str], *, repeats: int, steps: int, progress: bool = False) -> list[Result]:
    """Measure ``variants`` against the raw loop, everyone once in every repeat."""
    pairs = {variant: Pairs() for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:  # imports and lazy initialisation are paid here
            measure(variant, steps=10, folder=folder)
        for repeat in range(repeats):
            for variant in rotated(variants, by=repeat):
                own_first = (repeat + variants.index(variant)) % 2 == 1
                runs = [(pairs[variant].raw, "raw"), (pairs[variant].own, variant)]
                for moments, name in reversed(runs) if own_first else runs:
                    moments.append(measure(name, steps=steps, folder=folder))
            if progress:
                print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr)
    return [pairs[variant].result(variant) for variant in variants]


def rotated(items: Sequence[str], *, by: int) -> list[str]:
    """Begin with another one each time, so that nobody always follows the same neighbour."""
    cut = by % len(items)
    return [*items[cut:], *items[:cut]]


def is_void(results: Sequence[Result]) -> bool:
    """True where the control says that the machine was too restless to believe the rest."""
    control = next(result.ratio for result in results if result.variant == "raw")
    return not CONTROL_RANGE[0] <= control <= CONTROL_RANGE[1]


def table(results: Sequence[Result]) -> str:
    """The results in markdown."""
    lines = ["| loop | CPU us a step | over raw, us | x raw | x raw, wall |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {TITLES[row.variant]} | {row.cpu_us:.0f} | {row.over_us:+.1f} | {row.ratio:.3f} | {row.wall_ratio:.3f} |"
        for row in results
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 when the control says that the run is void."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=600, help="measured steps of each run")
    parser.add_argument("--only", default=",".join(VARIANTS), help=f"comma list of {', '.join(VARIANTS)}")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args(argv)
    variants = ["raw", *(name for name in options.only.split(",") if name != "raw")]
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    results = compare(variants, repeats=options.repeats, steps=options.steps, progress=not options.json)
    void = is_void(results)
    if options.json:
        document = {"repeats": options.repeats, "steps": options.steps, "void": void}
        print(json.dumps({**document, "results": [asdict(row) for row in results]}, indent=2))
    else:
        print(table(results))
        print("\nVOID: raw against raw is outside 0.99 to 1.01; run it again on a quieter machine." if void else "")
    return int(void)


if __name__ == "__main__":
    sys.exit(main())
