"""Runs that are cut and go on with another shape, and what was trained on in each step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hftrain import Trainer, TrainerCallback, TrainingArguments

NUM_SAMPLES = 53


class Ids(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples that are their own numbers, of lengths between 1 and 11; counts how many were loaded here."""

    def __init__(self, num_samples: int = NUM_SAMPLES) -> None:
        self.num_samples, self.num_loaded = num_samples, 0

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.num_loaded += 1
        return {"input_ids": [index] * (1 + index * 7 % 11), "id": index}


def ids_of(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate the numbers."""
    return {"id": torch.tensor([sample["id"] for sample in samples])}


class Line(nn.Module):
    """Remembers the numbers of what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.seen: list[int] = []

    def forward(self, id: Tensor) -> dict[str, Tensor]:
        """Return a loss."""
        self.seen += id.tolist()
        return {"loss": (self.net(id[:, None] / NUM_SAMPLES) - 1).square().mean()}


class Cut(TrainerCallback):
    """Saves and ends the run at a step; remembers the rate that each next step takes."""

    def __init__(self, at: int | None) -> None:
        self.at, self.rates = at, list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, and stop."""
        self.rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))
        if state.global_step == self.at:
            control.should_save = control.should_training_stop = True


class OwnLoader(Trainer):
    """Reads the loader that is set on it, if any."""

    loader: Any = None

    def get_train_dataloader(self) -> Any:
        """Return it."""
        return super().get_train_dataloader() if self.loader is None else self.loader


def train(
    folder: Path | str,
    *,
    until: int | None = None,
    resume: bool = False,
    data: Any = None,
    loader: Any = None,
    **changes: Any,
) -> dict[str, Any]:
    """Train, from the newest checkpoint on if asked; return what this process trained on, and where the run ended."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "use_cpu": True,
        "report_to": "none",
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "ddp_backend": "gloo" if "RANK" in os.environ else None,
    }
    cut = Cut(until)
    trainer = OwnLoader(
        Line(),
        TrainingArguments(str(folder), **{**settings, **changes}),
        train_dataset=Ids() if data is None else data,
        data_collator=ids_of,
        callbacks=[cut],
    )
    trainer.loader = loader
    trainer.train(resume_from_checkpoint=resume)
    state = trainer.state
    found = {"seen": trainer.model.seen, "rates": cut.rates, "step": state.global_step, "max_steps": state.max_steps}
    return json.loads(json.dumps({**found, "epoch": state.epoch, "random": torch.rand(()).item()}))


def repeated_and_missing(seen: list[int], num_samples: int = NUM_SAMPLES) -> tuple[int, int]:
    """Return how many samples of an epoch came again, and how many did not come."""
    return len(seen) - len(set(seen)), num_samples - len(set(seen))
