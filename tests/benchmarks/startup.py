"""What a five-step run costs from the start of the process to its end, in CPU seconds.

    python tests/benchmarks/startup.py [--repeats 7] [--only raw,hftrain-task] [--json]

Everyone trains the same MLP for five steps on one thread in a process of its own, with imports, set-up and exit
counted and no checkpoint written. The figure is the median of the user and system seconds of the fresh processes, which
are interleaved. Have transformers installed: torchmetrics imports it where it can, which is most of what others pay.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NUM_STEPS = 5
BATCH_SIZE = 16
ROOT = Path(__file__).resolve().parents[2]


def raw(folder: str) -> None:
    """Nothing but torch."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / NUM_STEPS)
    data = TensorDataset(torch.randn(NUM_STEPS * BATCH_SIZE, 64), torch.randn(NUM_STEPS * BATCH_SIZE, 1))
    for x, y in DataLoader(data, batch_size=BATCH_SIZE, shuffle=True):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def lightning(folder: str) -> None:
    """Lightning's Trainer with nothing switched on."""
    import lightning.pytorch as pl
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    data = TensorDataset(torch.randn(NUM_STEPS * BATCH_SIZE, 64), torch.randn(NUM_STEPS * BATCH_SIZE, 1))
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=NUM_STEPS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Module(), DataLoader(data, batch_size=BATCH_SIZE, shuffle=True))


def transformers(folder: str) -> None:
    """``transformers.Trainer`` on a plain module."""
    import torch
    from torch import Tensor, nn
    from transformers import Trainer, TrainingArguments  # type: ignore[attr-defined]

    torch.set_num_threads(1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.mse_loss(self.net(x), labels)}

    data = [{"x": torch.randn(64), "labels": torch.randn(1)} for _ in range(NUM_STEPS * BATCH_SIZE)]
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=NUM_STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(Model(), arguments, train_dataset=data).train()  # type: ignore[no-untyped-call, attr-defined]


def hftrain_task(folder: str) -> None:
    """hftrain through a TaskModule."""
    import torch
    from torch import Tensor, nn
    from torch.utils.data import TensorDataset

    from hftrain import DataModule, TaskModule, Trainer, TrainingArguments

    torch.set_num_threads(1)

    class Task(TaskModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    data = TensorDataset(torch.randn(NUM_STEPS * BATCH_SIZE, 64), torch.randn(NUM_STEPS * BATCH_SIZE, 1))
    arguments = TrainingArguments(
        folder, max_steps=NUM_STEPS, per_device_train_batch_size=BATCH_SIZE, save_strategy="no", use_cpu=True
    )
    Trainer(model=Task(), args=arguments, datamodule=DataModule(train=data)).train()


VARIANTS: dict[str, Callable[[str], None]] = {
    "raw": raw,
    "lightning": lightning,
    "transformers": transformers,
    "hftrain-task": hftrain_task,
}
TITLES = {
    "raw": "raw torch",
    "lightning": "Lightning Trainer",
    "transformers": "transformers.Trainer",
    "hftrain-task": "hftrain, TaskModule door",
}


def cpu_seconds(variant: str, folder: str) -> float:
    """User and system seconds of one fresh process, its own children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--child", variant, folder]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(variants: list[str], *, repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, after one run that warms the file cache and writes the bytecode."""
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            for variant in variants:
                spent = cpu_seconds(variant, folder)
                if repeat > 0:
                    seconds[variant].append(spent)
    return {variant: statistics.median(spent) for variant, spent in seconds.items()}


def main(argv: list[str] | None = None) -> int:
    """Print the table, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default=",".join(VARIANTS), help=f"comma list of {', '.join(VARIANTS)}")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--child", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        VARIANTS[options.child[0]](options.child[1])
        return 0

    variants = ["raw", *(name for name in options.only.split(",") if name != "raw")]
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    medians = compare(variants, repeats=options.repeats)
    if options.json:
        print(json.dumps({"repeats": options.repeats, "cpu_s": medians}, indent=2))
        return 0
    print("| process start to the end of a 5-step run | CPU s | over raw, s |\n| --- | ---: | ---: |")
    for variant, spent in medians.items():
        print(f"| {TITLES[variant]} | {spent:.2f} | {spent - medians['raw']:+.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
