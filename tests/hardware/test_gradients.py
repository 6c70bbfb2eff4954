from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hftrain.hardware.gradients import GradientList


def model(dtype: torch.dtype | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), nn.Linear(5, 5))
    if dtype is not None:
        layers[2].to(dtype)
    for parameter in layers[:3].parameters():  # the last layer has no gradient
        parameter.grad = torch.randn_like(parameter)
    return layers


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_clipping_is_bit_equal_to_torch(max_norm: float, dtype: torch.dtype | None) -> None:
    ours, theirs = model(dtype), model(dtype)
    norm = GradientList(ours.parameters()).clip(max_norm)
    assert norm is not None
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm))
    for a, b in zip(ours[:3].parameters(), theirs[:3].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_norm_that_is_not_finite_raises_nothing() -> None:
    layers = model()
    layers[0].bias.grad[0] = float("inf")
    assert GradientList(layers.parameters()).clip(1.0).isinf()


def test_sparse_gradients_are_clipped() -> None:
    embedding = nn.Embedding(5, 2, sparse=True)
    copied = copy.deepcopy(embedding)
    for layer in (embedding, copied):
        layer(torch.tensor([1, 1, 3])).sum().backward()
    with pytest.raises(NotImplementedError):  # torch's own clipping says the same
        torch.nn.utils.clip_grad_norm_(copied.parameters(), 0.5)
    with pytest.raises(NotImplementedError):
        GradientList(embedding.parameters()).clip(0.5)


def test_without_gradients_there_is_no_norm() -> None:
    assert GradientList(nn.Linear(2, 2).parameters()).clip(1.0) is None
    assert GradientList([]).clip(1.0) is None


def test_clear_removes_gradients_and_a_shared_parameter_counts_once() -> None:
    layers = model()
    gradients = GradientList([*layers.parameters(), layers[0].weight])
    assert len(gradients.parameters) == 6
    gradients.clear()
    assert all(parameter.grad is None for parameter in layers.parameters())
