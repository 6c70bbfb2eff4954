from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from hftrain.hardware.averaging import average_gradients
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings
from tests.distributed.launch import launch

pytestmark = pytest.mark.slow


class Branches(nn.Module):
    """The first process uses one branch, the second both; nobody uses the third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(2, 1, bias=False) for _ in range(3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += float(os.environ["RANK"]) + 1
        both = self.first(x) + (self.second(x) if os.environ["RANK"] == "1" else 0.0)
        return both.sum()


def gradients(defer_sync: bool) -> list[list[float] | None]:
    torch.manual_seed(0)
    settings = EngineSettings(accelerator="cpu", defer_sync=defer_sync, ddp_find_unused_parameters=True)
    engine, model = create_engine(settings), Branches()
    wrapped = engine.wrap(model)
    engine.backward(wrapped(torch.full((3, 2), float(os.environ["RANK"]) + 1)))
    engine.average_gradients()
    named = [parameter.grad for parameter in model.parameters()]
    return [*(None if grad is None else grad.flatten().tolist() for grad in named), model.seen.tolist()]


def both_ways() -> list[list[list[float] | None]]:
    return [gradients(False), gradients(True)]


def bucket_sizes() -> list[list[float]]:
    create_engine(EngineSettings(accelerator="cpu"))
    answers = []
    for bucket_bytes in (1, 10**6):
        parameters = [nn.Parameter(torch.zeros(size, dtype=kind)) for size, kind in KINDS]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, float(os.environ["RANK"]))
        average_gradients(parameters, bucket_bytes=bucket_bytes)
        answers.append([float(p.grad.sum()) for p in parameters if p.grad is not None])
    return answers


KINDS = ((3, torch.float32), (5, torch.float32), (2, torch.float64), (4, torch.float32))


def test_gradients_averaged_after_the_backward_are_those_of_ddp() -> None:
    (ddp, deferred), (ddp_of_second, deferred_of_second) = launch(both_ways)
    assert deferred == deferred_of_second
    assert deferred[:2] == ddp[:2] == ddp_of_second[:2]
    assert deferred[2] is None
    # DDP gives the buffer of the first process before the next forward, which is the same for whoever computes.
    assert deferred[3] == ddp[3] == [1.0]


def test_gradients_of_any_sizes_and_types_are_averaged() -> None:
    for answers in launch(bucket_sizes):
        assert answers == [[1.5, 2.5, 1.0, 2.0]] * 2
