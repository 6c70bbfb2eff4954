"""What the GPU tests train, and how they are marked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from examples.stdlib_gpt import Block
from hftrain import DataModule, TaskModule, Trainer, TrainingArguments

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device (make test-gpu)"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # torch says so whenever it is switched on
]
NUM_FEATURES, BATCH_SIZE = 32, 8


class Regression(TaskModule):
    """A small network with dropout, so that the device's random numbers matter."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(NUM_FEATURES, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
        )

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return functional.mse_loss(self.net(batch[0]).float(), batch[1])


class GPT2Small(TaskModule):
    """GPT-2 small: 124 million parameters, the head tied to the embedding."""

    def __init__(self, num_tokens: int = 50257, width: int = 768, num_layers: int = 12, context: int = 1024) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(num_tokens, width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads=width // 64, expansion=4) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = 0.02 / math.sqrt(2 * num_layers) if name.endswith("_out.weight") else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]
        logits = self.norm(self.blocks(x)) @ self.token_embedding.weight.T
        return {"loss": functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self(**batch)["loss"]  # type: ignore[no-any-return]


def regression_data(num_samples: int = 256) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_samples, NUM_FEATURES, generator=generator)
    return TensorDataset(x, x.mean(dim=1, keepdim=True).sin())


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Ten quiet steps on the first GPU, batches copied from pinned memory without waiting."""
    settings: dict[str, Any] = {
        "max_steps": 10,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": 1e-3,
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "accelerator_config": {"non_blocking": True},
    }
    return TrainingArguments(str(folder), **{**settings, **changes})


def regression_trainer(
    folder: Path, task: TaskModule | None = None, *, callbacks: list[Any] | None = None, **changes: Any
) -> Trainer:
    torch.manual_seed(0)
    return Trainer(
        model=task or Regression(),
        args=arguments(folder, **changes),
        datamodule=DataModule(train=regression_data()),
        callbacks=callbacks or [],
    )
