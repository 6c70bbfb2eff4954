from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import transformers as untyped_transformers
from torch import nn

from hftrain.errors import ConfigurationError
from hftrain.optim.adafactor import Adafactor, AdafactorSchedule

transformers: Any = untyped_transformers

SHAPES = [(3, 4), (4,), (2, 3, 4, 5), ()]
AS_TRAINER_USES_IT: dict[str, Any] = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}


def make_parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter((torch.randn(shape, generator=generator) * 0.5).to(dtype)) for shape in SHAPES]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], *, steps: int = 20, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = (torch.randn(parameter.shape, generator=generator) * 0.1).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kwargs",
    [
        AS_TRAINER_USES_IT,
        {},
        {"warmup_init": True},
        {"scale_parameter": False},
        {"weight_decay": 0.1, "beta1": 0.9},
        {**AS_TRAINER_USES_IT, "weight_decay": 0.1, "clip_threshold": 0.5, "decay_rate": -0.5, "eps": (1e-12, 0.1)},
        {"lr": 1e-2, "relative_step": False, "beta1": 0.5},
    ],
)
def test_weights_after_twenty_steps_are_those_of_the_reference(kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    ours, theirs = make_parameters(dtype), make_parameters(dtype)
    train(Adafactor(ours, **kwargs), ours)
    train(transformers.Adafactor(theirs, **kwargs), theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-7)


def test_torchs_optimizer_of_the_same_name_trains_differently() -> None:
    ours, theirs = make_parameters(), make_parameters()
    train(Adafactor(ours, **AS_TRAINER_USES_IT), ours, steps=5)
    train(torch.optim.Adafactor(theirs, lr=1e-2), theirs, steps=5)
    assert max(float((mine - other).detach().abs().max()) for mine, other in zip(ours, theirs, strict=True)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_continues_bitwise(dtype: torch.dtype) -> None:
    kwargs: dict[str, Any] = {"beta1": 0.9, "weight_decay": 0.1}
    whole, resumed = make_parameters(dtype), make_parameters(dtype)
    uninterrupted, first = Adafactor(whole, **kwargs), Adafactor(resumed, **kwargs)
    train(uninterrupted, whole, steps=3)
    train(first, resumed, steps=3)
    second = Adafactor(resumed, **kwargs)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(uninterrupted, whole, steps=3, seed=2)
    train(second, resumed, steps=3, seed=2)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


def test_a_state_of_the_reference_continues_as_it_would_there() -> None:
    ours, theirs = make_parameters(), make_parameters()
    reference = transformers.Adafactor(theirs, **AS_TRAINER_USES_IT)
    train(reference, theirs, steps=3)
    optimizer = Adafactor(ours, **AS_TRAINER_USES_IT)
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            mine.copy_(other)
    train(optimizer, ours, steps=3, seed=2)
    train(reference, theirs, steps=3, seed=2)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-7)


def test_the_state_of_a_matrix_is_the_sum_of_its_sides() -> None:
    parameter = nn.Parameter(torch.zeros(100, 50))
    optimizer = Adafactor([parameter], **AS_TRAINER_USES_IT)
    parameter.grad = torch.ones(100, 50)
    optimizer.step()
    assert sum(value.numel() for value in optimizer.state[parameter].values() if torch.is_tensor(value)) == 150


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    trained, untouched = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Adafactor([trained, untouched], weight_decay=0.1)
    trained.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(untouched, torch.ones(2))
    assert untouched not in optimizer.state


def test_step_returns_the_loss_of_its_closure() -> None:
    parameter = nn.Parameter(torch.ones(2))

    def closure() -> float:
        parameter.grad = 2 * parameter.detach()
        return float(parameter.detach().square().sum())

    assert Adafactor([parameter]).step(closure) == 2.0
    assert float(parameter.detach().sum()) < 2.0


def test_a_sparse_gradient_is_refused() -> None:
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        Adafactor(embedding.parameters()).step()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": 0.1}, "relative_step=False"),
        ({"relative_step": False}, "Set lr"),
        ({"lr": 0.1, "relative_step": False, "warmup_init": True}, "warmup_init=True"),
    ],
)
def test_contradictory_settings_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Adafactor(make_parameters(), **kwargs)


@pytest.mark.parametrize("kwargs", [{}, {"scale_parameter": False}, {"warmup_init": True}])
def test_the_schedule_shows_the_step_sizes_of_the_reference(kwargs: dict[str, Any]) -> None:
    ours, theirs = make_parameters(), make_parameters()
    optimizer, reference = Adafactor(ours, **kwargs), transformers.Adafactor(theirs, **kwargs)
    shown = AdafactorSchedule(optimizer, initial_lr=0.5)
    expected = transformers.optimization.AdafactorSchedule(reference, initial_lr=0.5)
    assert shown.get_last_lr() == expected.get_last_lr() == [0.5]
    for step in range(5):
        train(optimizer, ours, steps=1, seed=step)
        train(reference, theirs, steps=1, seed=step)
        shown.step()
        expected.step()
        assert float(shown.get_last_lr()[0]) == pytest.approx(float(expected.get_last_lr()[0]), rel=1e-6)


def test_the_schedule_changes_nothing_and_its_state_is_json() -> None:
    parameters = make_parameters()
    optimizer = Adafactor(parameters)
    schedule = AdafactorSchedule(optimizer)
    train(optimizer, parameters, steps=1)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is None
    fresh = AdafactorSchedule(optimizer)
    fresh.load_state_dict(json.loads(json.dumps(schedule.state_dict(), allow_nan=False)))
    assert fresh.last_epoch == 1
    assert fresh.get_last_lr() == schedule.get_last_lr()
