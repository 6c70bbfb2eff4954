from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain.errors import TaskError
from hftrain.hardware.overflow import NUM_FRAMES, overflow_monitor


class Exploding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)

    def forward(self, x: Tensor, factor: float = 1.0) -> dict[str, Any]:
        return {"logits": self.second(self.first(x) * factor), "count": torch.tensor(3)}


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_the_module_that_saw_the_first_inf_is_named_with_the_statistics_before_it() -> None:
    model = Exploding()
    wanted = r"inf or nan in input\[0\] of second \(Linear\)"
    with pytest.raises(TaskError, match=wanted) as raised, overflow_monitor(model):
        model(torch.ones(1, 2), factor=float("inf"))
    text = str(raised.value)
    assert text.index("  first (Linear)") < text.index("  second (Linear)")
    assert all(word in text for word in ("weight", "bias", "input[0]", "output[0]", "smallest", "inf"))


def test_a_weight_that_is_nan_is_named() -> None:
    model = Exploding()
    nn.init.constant_(model.first.bias, float("nan"))
    with pytest.raises(TaskError, match=r"in bias of first \(Linear\)"), overflow_monitor(model):
        model(torch.ones(1, 2))


def test_finite_numbers_of_any_kind_pass_and_no_hook_is_left() -> None:
    model = Exploding()
    with overflow_monitor(model):
        model(torch.ones(1, 2))["logits"].sum().backward()
        model.half()(torch.full((1, 2), 6e4).half())["logits"]
        assert hooks(model) == 6
    assert hooks(model) == 0


def test_a_forward_that_raised_does_not_blind_the_monitor() -> None:
    model = Exploding()
    with overflow_monitor(model):
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.ones(1, 3))
        with pytest.raises(TaskError, match="found inf or nan"):
            model(torch.full((1, 2), float("nan")))


def test_the_report_is_of_the_last_modules_only() -> None:
    model = nn.Sequential(*[nn.Identity() for _ in range(40)], nn.Linear(1, 1))
    nn.init.constant_(model[40].bias, float("inf"))
    with pytest.raises(TaskError) as raised, overflow_monitor(model):
        model(torch.ones(1, 1))
    assert f"the last {NUM_FRAMES} modules" in str(raised.value)
    assert str(raised.value).count("(Identity)") == NUM_FRAMES - 1
