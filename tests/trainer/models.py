"""Tiny plain modules and data for the tests of the Trainer's steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hftrain import Trainer
from tests.trainer.tasks import arguments

VOCABULARY = 11


class Tokens(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Sequences of four tokens; every third has two labels only."""

    def __init__(self, num_samples: int = 32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(VOCABULARY, (num_samples, 4), generator=generator)
        self.labels = self.tokens.clone()
        self.labels[::3, 2:] = -100

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


class Tagger(nn.Module):
    """Predicts each token from itself; its loss is the mean over the batch's labels, whatever the count says."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        self.calls += 1
        logits = self.head(self.embedding(input_ids))
        outputs = {"logits": logits}
        if labels is None:
            return outputs
        return {"loss": self.loss(logits.flatten(0, 1), labels.flatten(), **kwargs), **outputs}

    def loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        return functional.cross_entropy(logits, labels)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding


class WeightedTagger(Tagger):
    """The same, dividing the summed loss by the count it is given."""

    def loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        count = kwargs.get("num_items_in_batch")
        if count is None:
            return super().loss(logits, labels)
        return functional.cross_entropy(logits, labels, reduction="sum") / count


def token_trainer(
    folder: Path,
    model: nn.Module | type[nn.Module] = Tagger,
    kind: type[Trainer] = Trainer,
    data: Any = None,
    parameters: dict[str, Any] | None = None,
    **changes: Any,
) -> Trainer:
    """A Trainer over a model (a class is instantiated with seeded weights) and `Tokens`: 4 samples a batch, 4 steps."""
    settings = {"per_device_train_batch_size": 4, "max_steps": 4, "logging_steps": 1, **changes}
    torch.manual_seed(0)
    return kind(
        model=model if isinstance(model, nn.Module) else model(),
        args=arguments(folder, **settings),
        train_dataset=data if data is not None else Tokens(),
        **(parameters or {}),
    )
