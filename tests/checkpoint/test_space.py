"""How large a checkpoint will be, before the first step, and how much is free."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hftrain.checkpoint.space import free_bytes, num_bytes, optimizer_bytes
from hftrain.optim.adafactor import Adafactor

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "amsgrad": lambda parameters: torch.optim.AdamW(parameters, amsgrad=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "rate as tensor": lambda parameters: torch.optim.AdamW(parameters, lr=torch.tensor(0.1)),
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters: torch.optim.SGD(parameters, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adafactor": Adafactor,
    "adafactor with a rate": lambda parameters: Adafactor(parameters, lr=1e-3, relative_step=False),
}


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 20), nn.Linear(20, 2))
    made[0].requires_grad_(False)
    return made


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    return num_bytes(value for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_state_that_comes_with_the_first_step_is_counted_before_it_and_after(kind: str) -> None:
    network = model()
    optimizer = OPTIMIZERS[kind](network.parameters())
    before = optimizer_bytes(optimizer)
    network(torch.randn(3, 30)).sum().backward()
    optimizer.step()
    assert before == state_bytes(optimizer) == optimizer_bytes(optimizer)


def test_the_measuring_leaves_the_optimizer_as_it_was() -> None:
    optimizer = torch.optim.AdamW(model().parameters())
    before = repr(optimizer)
    optimizer_bytes(optimizer)
    assert repr(optimizer) == before
    assert not optimizer.state


def test_an_optimizer_that_cannot_be_asked_counts_with_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise AssertionError("called")

    assert optimizer_bytes(Own(model().parameters(), momentum=0.9)) == 0
    with caplog.at_level(logging.INFO):
        assert optimizer_bytes(torch.optim.LBFGS(model()[1:].parameters())) == 0  # type: ignore[index]
    assert "How large the state of LBFGS will be is not known" in caplog.text


def test_tensors_that_are_one_memory_count_once() -> None:
    tensor = torch.zeros(8)
    assert num_bytes([tensor, tensor.view(8), torch.zeros(2), "text"]) == 40


def test_space_is_asked_of_the_disk_that_the_folder_will_lie_on(tmp_path: Path) -> None:
    found = free_bytes(str(tmp_path / "not" / "yet"))
    assert found is not None
    assert abs(found - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert free_bytes("memory://folder") is None
