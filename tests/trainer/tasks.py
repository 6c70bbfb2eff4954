"""Tiny tasks and data that the Trainer's tests train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hftrain import DataModule, TaskModule, Trainer, TrainingArguments

NUM_SAMPLES = 64


class Points(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A noisy line in four dimensions; ``fetched`` says which samples were read."""

    def __init__(self, num_samples: int = NUM_SAMPLES, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num_samples, 4, generator=generator)
        self.y = self.x.sum(dim=1) + 0.1 * torch.randn(num_samples, generator=generator)
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.fetched.append(index)
        return {"x": self.x[index], "y": self.y[index]}


class Fit(TaskModule):
    """A two-layer regression with dropout."""

    def __init__(self, hidden: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1))

    def training_step(self, batch: dict[str, Tensor]) -> Any:
        return functional.mse_loss(self.net(batch["x"]).squeeze(1), batch["y"])

    def eval_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        preds = self.net(batch["x"]).squeeze(1)
        return {"loss": functional.mse_loss(preds, batch["y"]), "preds": preds, "target": batch["y"]}


class CountedFit(Fit):
    """The same, weighting every sample equally over a whole step."""

    def training_step(self, batch: dict[str, Tensor], num_items: Tensor) -> Tensor:
        error = self.net(batch["x"]).squeeze(1) - batch["y"]
        return error.square().sum() / num_items

    def count_items(self, group: Sequence[Any]) -> int:
        return sum(len(batch["x"]) for batch in group)


class Model(nn.Module):
    """An ordinary module for the Trainer door: its forward returns the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": functional.mse_loss(self.net(x).squeeze(1), y)}


def arguments(folder: Path | str, **changes: Any) -> TrainingArguments:
    """Arguments of a short, quiet run on the CPU."""
    settings: dict[str, Any] = {
        "use_cpu": True,
        "report_to": "none",
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "logging_steps": 4,
        "save_strategy": "no",
    }
    return TrainingArguments(str(folder), **{**settings, **changes})


def trainer(
    folder: Path | str, task: nn.Module | type[nn.Module] | None = None, data: DataModule | None = None, **changes: Any
) -> Trainer:
    """A Trainer over `Fit` and `Points`; a class is instantiated with seeded weights."""
    callbacks = changes.pop("callbacks", None)
    torch.manual_seed(0)
    return Trainer(
        model=task if isinstance(task, nn.Module) else (task or Fit)(),
        args=arguments(folder, **changes),
        datamodule=data if data is not None else DataModule(train=Points(), eval=Points(20, seed=1)),
        callbacks=callbacks,
    )


def weights(model: nn.Module) -> Tensor:
    """All weights in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])
