"""Live objects become parts, and fresh objects continue from them to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from hftrain.checkpoint.contents import (
    load_optimizer,
    load_scheduler,
    model_part,
    model_state,
    optimizer_part,
    parameter_names,
    rng_part,
    scaler_part,
    scheduler_part,
    tree_of,
)
from hftrain.checkpoint.reader import open_checkpoint
from hftrain.checkpoint.writer import write_folder
from hftrain.errors import CheckpointError

Make = Callable[[Any], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9)),
    "adamw_amsgrad": lambda groups: torch.optim.AdamW(groups, lr=0.01, amsgrad=True),
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=0.01, fused=True),
    "adamw_tensor_lr": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.01), foreach=False),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "sgd_momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.01),
    "radam": lambda groups: torch.optim.RAdam(groups, lr=0.01),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.01),
    "adamax": lambda groups: torch.optim.Adamax(groups, lr=0.01),
    "adadelta": lambda groups: torch.optim.Adadelta(groups, lr=0.5),
    "asgd": lambda groups: torch.optim.ASGD(groups, lr=0.01),
    "rprop": lambda groups: torch.optim.Rprop(groups, lr=0.01),
}
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 10)],
        milestones=[3],
    ),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, cooldown=1),
    "one_cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20),
    "multi_step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 2, 7]),
    "chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(optimizer, 0.9), lr_scheduler.ConstantLR(optimizer, 0.5, 6)]
    ),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
}


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2)).to(dtype)


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    named = list(model.named_parameters())
    return [
        {"params": [parameter for name, parameter in named if "bias" not in name], "weight_decay": 0.1},
        {"params": [parameter for name, parameter in named if "bias" in name]},
    ]


def train(model: nn.Module, optimizer: Optimizer, steps: range, scheduler: Any = None) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        data = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(step)).to(dtype)
        loss = model(data).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()


def state_of(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    state = [optimizer.state[parameter] for parameter in model.parameters()]
    return [*model.state_dict().values(), *(value for row in state for value in row.values())]


def assert_same_bits(ones: list[Any], others: list[Any]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other


def continued(path: Path, model: nn.Module, optimizer: Optimizer, make: Make, dtype: torch.dtype) -> list[Any]:
    """Save to files, load into fresh objects, train five steps more."""
    write_folder(str(path), [model_part(model.state_dict()), optimizer_part(optimizer, parameter_names(model))])
    reader = open_checkpoint(str(path))
    fresh = net(dtype)
    fresh_optimizer = make(groups_of(fresh))
    fresh.load_state_dict(reader.model())
    load_optimizer(reader.part("optimizer"), fresh_optimizer, parameter_names(fresh))
    train(fresh, fresh_optimizer, range(5, 10))
    return state_of(fresh, fresh_optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_save_load_five_steps_equals_ten_steps_to_the_bit(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = net(dtype)
    optimizer = OPTIMIZERS[name](groups_of(model))
    train(model, optimizer, range(5))
    resumed = continued(tmp_path, model, optimizer, OPTIMIZERS[name], dtype)
    train(model, optimizer, range(5, 10))
    assert_same_bits(resumed, state_of(model, optimizer))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_where_it_was(name: str) -> None:
    def fresh() -> tuple[nn.Module, Optimizer, Any]:
        model = net()
        optimizer = torch.optim.AdamW(groups_of(model), lr=0.05)
        return model, optimizer, SCHEDULERS[name](optimizer)

    model, optimizer, scheduler = fresh()
    train(model, optimizer, range(5), scheduler)
    other, other_optimizer, other_scheduler = fresh()
    other.load_state_dict(model.state_dict())
    load_optimizer(optimizer_part(optimizer, parameter_names(model)), other_optimizer, parameter_names(other))
    load_scheduler(scheduler_part(scheduler), other_scheduler)
    for step in range(5, 10):
        train(model, optimizer, range(step, step + 1), scheduler)
        train(other, other_optimizer, range(step, step + 1), other_scheduler)
        assert [group["lr"] for group in optimizer.param_groups] == [g["lr"] for g in other_optimizer.param_groups]
    # Loading copies nothing, so the tensors of a part in memory are the first optimizer's own: compare weights only.
    assert scheduler.state_dict().keys() == other_scheduler.state_dict().keys()


def test_the_state_of_an_optimizer_is_keyed_by_parameter_name() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, range(1))
    part = optimizer_part(optimizer, parameter_names(model))
    assert set(part.document["state"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert "2.weight/exp_avg" in part.tensors
    assert part.document["param_groups"][0]["lr"] == 0.001


def test_an_optimizer_with_other_groups_loads_the_same_state() -> None:
    model = net()
    optimizer = torch.optim.AdamW(groups_of(model), lr=0.02)
    train(model, optimizer, range(2))
    regrouped = torch.optim.AdamW(reversed(list(model.parameters())), lr=0.5)
    load_optimizer(optimizer_part(optimizer, parameter_names(model)), regrouped, parameter_names(model))
    for parameter in model.parameters():
        assert torch.equal(regrouped.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert regrouped.param_groups[0]["lr"] == 0.02


def test_an_optimizer_over_other_parameters_is_refused_with_their_names() -> None:
    model = net()
    part = optimizer_part(torch.optim.SGD(model.parameters(), lr=0.1), parameter_names(model))
    fewer = torch.optim.SGD(list(model.parameters())[1:], lr=0.1)
    with pytest.raises(CheckpointError, match=r"0\.weight only there, none only here"):
        load_optimizer(part, fewer, parameter_names(model))


def test_parameters_from_outside_the_model_are_named_by_their_place() -> None:
    outside = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adagrad([outside], lr=0.1)
    part = optimizer_part(optimizer, {})
    assert set(part.document["state"]) == {"param_groups.0.0"}
    load_optimizer(part, torch.optim.Adagrad([outside], lr=0.1), {})


def test_fp32_state_of_bf16_parameters_stays_exact() -> None:
    model = net(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    third = torch.full((3, 2, 2), 1 / 3)
    optimizer.state[model[0].weight]["momentum_buffer"] = third
    other = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    load_optimizer(optimizer_part(optimizer, parameter_names(model)), other, parameter_names(model))
    assert torch.equal(other.state[model[0].weight]["momentum_buffer"], third)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("view", self.embedding.weight.data[:2])


def test_shared_tensors_are_saved_once_and_come_back_tied(tmp_path: Path) -> None:
    model = Tied()
    part = model_part(model.state_dict())
    assert set(part.tensors) == {"embedding.weight", "view"}
    write_folder(str(tmp_path), [part])
    state = open_checkpoint(str(tmp_path)).model()
    assert list(state) == ["embedding.weight", "view", "head.weight"] or set(state) == set(model.state_dict())
    assert state["head.weight"] is state["embedding.weight"]
    fresh = Tied()
    fresh.load_state_dict(state)
    assert fresh.head.weight is fresh.embedding.weight
    assert torch.equal(fresh.head.weight, model.head.weight)


def test_a_model_that_knows_its_ties_says_which_name_to_leave_out() -> None:
    assert set(model_part(Tied().state_dict(), tied=["embedding.weight"]).tensors) == {"head.weight", "view"}


def test_extra_states_that_are_no_tensors_come_back() -> None:
    state = {"weight": torch.ones(2), "_extra_state": {"scale": 0.5, "history": torch.arange(3)}}
    back = model_state(model_part(state))
    assert back.keys() == state.keys()
    assert back["_extra_state"]["scale"] == 0.5
    assert back["_extra_state"]["history"].tolist() == [0, 1, 2]


def test_scaler_and_random_states_come_back() -> None:
    rng = {"torch": torch.get_rng_state(), "python": (3, (1, 2, 3), None)}
    part = rng_part(rng)
    assert part.per_rank
    back = tree_of(part)
    assert torch.equal(back["torch"], rng["torch"])
    assert back["python"] == rng["python"]
    scaler = {"scale": 65536.0, "growth_interval": 2000, "_growth_tracker": 0}
    assert tree_of(scaler_part(scaler)) == scaler
