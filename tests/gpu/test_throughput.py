"""Tokens per second of a 124M GPT in bf16 beside a hand-written loop, Lightning and transformers.

pytest -m gpu -s tests/gpu/test_throughput.py
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from hftrain import DataModule, Trainer, TrainingArguments
from tests.gpu.models import NEEDS_GPU, GPT2Small

pytestmark = [*NEEDS_GPU, pytest.mark.slow, pytest.mark.timeout(900)]

CONTEXT, BATCH_SIZE = 1024, 8
WARM_UP_STEPS, NUM_STEPS, REPEATS = 5, 20, 5


class RandomTokens(Dataset[dict[str, Tensor]]):
    """Text that nobody can learn; how fast it is read is all that counts."""

    def __init__(self) -> None:
        self.tokens = torch.randint(50257, (256, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return BATCH_SIZE * (WARM_UP_STEPS + NUM_STEPS + 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.tokens[index % len(self.tokens)]
        return {"input_ids": row[:-1], "labels": row[1:]}


class ClockedGPT(GPT2Small):
    """Notes the time, the GPU idle, when the measured steps begin and when they have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0
        self.moments: list[float] = []

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.num_calls in (WARM_UP_STEPS, WARM_UP_STEPS + NUM_STEPS):
            torch.cuda.synchronize()
            self.moments.append(time.perf_counter())
        self.num_calls += 1
        return super().forward(input_ids, labels)


def raw(model: ClockedGPT, folder: Path) -> None:
    model.to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    total = torch.zeros((), device="cuda")
    loader = DataLoader(RandomTokens(), batch_size=BATCH_SIZE, shuffle=True, pin_memory=True)
    for step, host_batch in enumerate(loader, start=1):
        batch = {name: tensor.to("cuda", non_blocking=True) for name, tensor in host_batch.items()}
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch)["loss"]
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        total += loss.detach()
        if step % 10 == 0:
            print(total.item() / 10, norm.item())
            total.zero_()


def trainer_arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": WARM_UP_STEPS + NUM_STEPS + 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": True,
        "accelerator_config": {"non_blocking": True},
    }


def hftrain_task(model: ClockedGPT, folder: Path) -> None:
    args = TrainingArguments(**trainer_arguments(folder))
    Trainer(model=model, args=args, datamodule=DataModule(train=RandomTokens())).train()


def lightning(model: ClockedGPT, folder: Path) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self.net(**batch)["loss"]
            self.log("loss", loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.0)

    pl.Trainer(
        accelerator="cuda",
        devices=1,
        precision="bf16-mixed",
        max_steps=WARM_UP_STEPS + NUM_STEPS + 1,
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(Module(), DataLoader(RandomTokens(), batch_size=BATCH_SIZE, shuffle=True, pin_memory=True))


def transformers(model: ClockedGPT, folder: Path) -> None:
    library: Any = importlib.import_module("transformers")  # ships no types that strict mypy takes
    args = library.TrainingArguments(**trainer_arguments(folder), disable_tqdm=True)
    library.Trainer(model, args, data_collator=default_collate, train_dataset=RandomTokens()).train()


LOOPS: dict[str, Callable[[ClockedGPT, Path], None]] = {
    "raw": raw,
    "hftrain": hftrain_task,
    "lightning": lightning,
    "transformers": transformers,
}


def seconds_per_step(name: str, folder: Path) -> float:
    torch.manual_seed(0)
    model = ClockedGPT()
    LOOPS[name](model, folder)
    begin, end = model.moments
    del model
    torch.cuda.empty_cache()
    return (end - begin) / NUM_STEPS


@pytest.mark.filterwarnings("ignore")  # of the others
def test_a_large_gpt_trains_as_fast_as_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    installed = {"raw", "hftrain", "lightning", *(["transformers"] if importlib.util.find_spec("accelerate") else [])}
    names = [name for name in LOOPS if name in installed]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(REPEATS):
        for name in names:
            seconds[name].append(seconds_per_step(name, tmp_path))
    base = statistics.median(seconds["raw"])
    with capsys.disabled():
        print(f"\n124M GPT, bf16, {torch.cuda.get_device_name()}: | loop | tokens/s | ms a step | over raw, us |")
        for name in names:
            median = statistics.median(seconds[name])
            over = statistics.median(a - b for a, b in zip(seconds[name], seconds["raw"], strict=True)) * 1e6
            tokens = BATCH_SIZE * CONTEXT / median
            print(f"| {name} | {tokens:,.0f} | {median * 1e3:.2f} | {over:+.0f} |")
    assert statistics.median(seconds["hftrain"]) <= 1.04 * base
