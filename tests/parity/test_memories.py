"""Memories: an output of one batch is an input of the next, as in the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.parity.harness import TOLERANCE, Cell, both, differences


class Recurrent(nn.Module):
    """Keeps its hidden values from one batch to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(8, 1)

    def forward(self, x: Tensor, labels: Tensor, mems: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.tanh(self.inner(x))
        before = torch.zeros_like(hidden) if mems is None else mems
        logits = self.outer(torch.cat([hidden, before], dim=1)).squeeze(1)
        return functional.mse_loss(logits, labels), logits, hidden.detach()


@pytest.mark.filterwarnings("default")  # the reference's own
def test_memories_come_back_with_the_next_batch_of_the_epoch(tmp_path: Path) -> None:
    cell = Cell(model=Recurrent, args={"past_index": 2, "num_train_epochs": 3}, steps=24)
    mine, reference = both(cell, tmp_path)
    assert all(value <= TOLERANCE for value in differences(cell, mine, reference).values())
