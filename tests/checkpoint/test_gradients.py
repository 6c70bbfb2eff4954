from __future__ import annotations

import pytest
import torch
from torch import nn

from hftrain.checkpoint.gradients import drawn_from, gradients_part, put_gradients
from hftrain.errors import TornCheckpointError
from hftrain.hardware.seeding import rng_state


def of(module: nn.Module, extra: nn.Parameter | None = None) -> torch.optim.Optimizer:
    return torch.optim.SGD([*module.parameters(), *([] if extra is None else [extra])], lr=0.1)


def test_gradients_come_back_by_name_also_of_a_parameter_that_has_none() -> None:
    module, extra = nn.Linear(2, 3), nn.Parameter(torch.ones(4))
    (module(torch.ones(1, 2)).sum() + extra.sum()).backward()
    part = gradients_part(module, of(module, extra), drawn_from=None)
    other, other_extra = nn.Linear(2, 3), nn.Parameter(torch.zeros(4))
    put_gradients(part, other, of(other, other_extra))
    assert torch.equal(other.weight.grad, module.weight.grad)  # type: ignore[arg-type]
    assert torch.equal(other_extra.grad, torch.ones(4))  # type: ignore[arg-type]


def test_a_parameter_without_gradient_stays_without() -> None:
    module = nn.Linear(2, 3)
    part = gradients_part(module, of(module), drawn_from=None)
    module.weight.grad = torch.ones(3, 2)
    put_gradients(part, module, of(module))
    assert module.weight.grad is None


def test_gradients_of_another_model_are_refused() -> None:
    module, other = nn.Linear(2, 3), nn.Linear(2, 4)
    module(torch.ones(1, 2)).sum().backward()
    with pytest.raises(TornCheckpointError, match="no parameter of this run takes"):
        put_gradients(gradients_part(module, of(module), drawn_from=None), other, of(other))


def test_the_random_state_travels_with_them() -> None:
    module, state = nn.Linear(2, 3), rng_state()
    found = drawn_from(gradients_part(module, of(module), drawn_from=state))
    assert found is not None
    assert torch.equal(found["torch"], state["torch"])
