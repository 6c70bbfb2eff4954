"""States from a stranger's checkpoint: looked at before an object takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from hftrain.checkpoint.checks import check_rng, check_scaler, named_errors
from hftrain.checkpoint.contents import (
    load_optimizer,
    load_scheduler,
    optimizer_part,
    parameter_names,
    rng_of,
    rng_part,
    scheduler_part,
    tree_of,
    tree_part,
)
from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError
from hftrain.hardware.seeding import rng_state

# ---- random numbers ---------------------------------------------------------------------------------


def changed_rng(generator: str, **changes: Any) -> dict[str, Any]:
    state = rng_state()
    return state | {generator: state[generator] | changes}


WRONG_RNG: dict[str, Callable[[], Any]] = {
    "a list": lambda: [],
    "nothing of numpy": lambda: rng_state() | {"numpy": None},
    "no python": lambda: {key: value for key, value in rng_state().items() if key != "python"},
    "a place behind the words": lambda: changed_rng("numpy", position=625),
    "a place far behind": lambda: changed_rng("numpy", position=10**9),
    "a place before": lambda: changed_rng("numpy", position=-5),
    "a place that is NaN": lambda: changed_rng("numpy", position=math.nan),
    "too few words": lambda: changed_rng("numpy", words=[0] * 623),
    "a word too large": lambda: changed_rng("numpy", words=[1 << 32] * 624),
    "a gauss that is text": lambda: changed_rng("numpy", gauss="0"),
    "another version": lambda: changed_rng("python", version=2),
    "a place behind python's words": lambda: changed_rng("python", words=[0] * 624 + [625]),
    "no tensor": lambda: rng_state() | {"torch": [0] * 5056},
    "a short tensor": lambda: rng_state() | {"torch": torch.zeros(10, dtype=torch.uint8)},
    "a tensor of no generator": lambda: rng_state() | {"torch": torch.full((5056,), 255, dtype=torch.uint8)},
    "a device of text": lambda: rng_state() | {"cuda": "state"},
    "a device of much": lambda: rng_state() | {"cuda": torch.zeros(1 << 20, dtype=torch.uint8)},
}


@pytest.mark.parametrize("make", WRONG_RNG.values(), ids=WRONG_RNG)
def test_a_random_state_that_no_generator_has_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(TornCheckpointError, match="random state"):
        check_rng(make())


def test_a_random_state_comes_back() -> None:
    state = rng_state()
    back = rng_of(rng_part(state))
    assert back["numpy"] == state["numpy"]
    assert torch.equal(back["torch"], state["torch"])


# ---- loss scale -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [{"scale": 2.0, "_growth_tracker": 3}, {}, {"scaler0": {"loss_scale": 4.0}}])
def test_a_loss_scale_comes_back(state: dict[str, Any]) -> None:
    assert check_scaler(state) == state


@pytest.mark.parametrize(
    "state",
    [[], {"scale": math.nan}, {"scale": 0.0}, {"scale": "1"}, {"_growth_tracker": 0.5}, {"a": [1.0]}, {"a": {"b": []}}],
)
def test_a_loss_scale_that_is_none_is_refused(state: Any) -> None:
    with pytest.raises(TornCheckpointError, match="loss scale"):
        check_scaler(state)


# ---- schedules --------------------------------------------------------------------------------------


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)


class Warmup:
    """A schedule's function with a state of its own."""

    def __init__(self) -> None:
        self.steps = 10

    def __call__(self, step: int) -> float:
        return min(1.0, step / self.steps)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
    "object": lambda optimizer: LambdaLR(optimizer, Warmup()),
    "milestones": lambda optimizer: MultiStepLR(optimizer, [3, 5]),
    "plateau": ReduceLROnPlateau,
    "one cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=10),
    "restarts": lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 4),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [ConstantLR(optimizer), LambdaLR(optimizer, lambda step: 1.0)], [2]
    ),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_schedule_of_torch_comes_back(make: Callable[[torch.optim.Optimizer], Any]) -> None:
    scheduler, fresh = make(sgd()), make(sgd())
    for _ in range(3):
        scheduler.step(1.0) if isinstance(scheduler, ReduceLROnPlateau) else scheduler.step()
    load_scheduler(scheduler_part(scheduler), fresh)
    assert fresh.state_dict() == scheduler.state_dict()


def loaded(kind: str, **changes: Any) -> None:
    scheduler = SCHEDULERS[kind](sgd())
    load_scheduler(tree_part("scheduler", scheduler.state_dict() | changes), scheduler)


@pytest.mark.parametrize("name", ["step", "get_lr", "optimizer", "state_dict", "__class__", "__dict__"])
def test_a_schedule_cannot_replace_a_method(name: str) -> None:
    with pytest.raises(UnsafeCheckpointError, match=f"would replace '{name}'"):
        loaded("lambda", **{name: "text"})
    inner = SCHEDULERS["sequence"](sgd()).state_dict()["_schedulers"]
    with pytest.raises(UnsafeCheckpointError, match="would replace"):
        loaded("sequence", _schedulers=[inner[0] | {name: 1}, inner[1]])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("lambda", {"last_epoch": math.nan}),
        ("lambda", {"last_epoch": 1.5}),
        ("lambda", {"last_epoch": -2}),
        ("lambda", {"last_epoch": 10**400}),
        ("lambda", {"_step_count": "3"}),
        ("lambda", {"base_lrs": "text"}),
        ("lambda", {"base_lrs": ["text"]}),
        ("lambda", {"base_lrs": {}}),
        ("lambda", {"lr_lambdas": 3}),
        ("milestones", {"milestones": [3, 5]}),
        ("milestones", {"gamma": [0.1]}),
        ("plateau", {"mode": 3}),
        ("plateau", {"num_bad_epochs": math.inf}),
        ("restarts", {"T_0": math.nan}),
        ("sequence", {"_schedulers": [3, 4]}),
    ],
)
def test_a_schedule_of_other_kinds_of_values_is_refused(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TornCheckpointError, match="schedule"):
        loaded(kind, **changes)


@pytest.mark.parametrize("kind", ["lambda", "object"])
def test_a_schedules_function_gets_no_attribute_that_it_does_not_have(kind: str) -> None:
    with pytest.raises(CheckpointError, match="schedule"):
        loaded(kind, lr_lambdas=[{"__call__": "text"}])


def test_a_schedule_whose_function_is_now_of_another_kind_is_loaded() -> None:
    loaded("object", lr_lambdas=[None])
    loaded("lambda", lr_lambdas=[{}], of_a_later_version=[1], verbose=False)


def test_rates_and_counts_of_numpy_are_taken() -> None:
    loaded("lambda", base_lrs=[np.float32(0.1)], last_epoch=np.int64(3), _last_lr=[np.float32(0.1)])
    load_tree(with_group(lr=np.float32(0.1)))
    load_tree(with_state(step=np.int64(3)))
    assert check_scaler({"scale": np.float32(2.0), "_growth_tracker": np.int64(1)})


# ---- optimizers -------------------------------------------------------------------------------------


def trained(kind: type[torch.optim.Optimizer], **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.01, **settings)  # type: ignore[call-arg]
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return model, optimizer


KINDS = ["AdamW", "SGD", "Adagrad", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_of_torch_comes_back(kind: str) -> None:
    settings = {"AdamW": {"amsgrad": True}, "SGD": {"momentum": 0.9}, "RMSprop": {"centered": True, "momentum": 0.9}}
    model, optimizer = trained(getattr(torch.optim, kind), **settings.get(kind, {}))
    other, fresh = trained(getattr(torch.optim, kind), **settings.get(kind, {}))
    load_optimizer(optimizer_part(optimizer, parameter_names(model)), fresh, parameter_names(other))
    for ours, theirs in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in theirs)


def tree_of_adam() -> dict[str, Any]:
    model, optimizer = trained(torch.optim.AdamW)
    tree: dict[str, Any] = tree_of(optimizer_part(optimizer, parameter_names(model)))
    return tree


def load_tree(tree: Any) -> None:
    model, optimizer = trained(torch.optim.AdamW)
    load_optimizer(tree_part("optimizer", tree), optimizer, parameter_names(model))


def with_state(**changes: Any) -> dict[str, Any]:
    tree = tree_of_adam()
    return tree | {"state": tree["state"] | {"weight": tree["state"]["weight"] | changes}}


def with_group(**changes: Any) -> dict[str, Any]:
    tree = tree_of_adam()
    return tree | {"param_groups": [tree["param_groups"][0] | changes]}


WRONG_OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "a list": lambda: [],
    "no groups": lambda: tree_of_adam() | {"param_groups": None},
    "no state": lambda: tree_of_adam() | {"state": []},
    "no more": lambda: tree_of_adam() | {"more": 3},
    "a state by number": lambda: tree_of_adam() | {"state": {0: {}}},
    "a state of nothing": lambda: tree_of_adam() | {"state": {"nowhere": {}}},
    "a group of one name": lambda: with_group(params="weight"),
    "a parameter twice": lambda: with_group(params=["weight", "weight", "bias"]),
    "a rate of text": lambda: with_group(lr="fast"),
    "a rate too large": lambda: with_group(lr=10**400),
    "betas of text": lambda: with_group(betas=("a", "b")),
    "betas of one number": lambda: with_group(betas=0.9),
    "a switch that is a table": lambda: with_group(amsgrad={}),
    "a small moment": lambda: with_state(exp_avg=torch.zeros(1)),
    "a moment of integers": lambda: with_state(exp_avg=torch.zeros(2, 3, dtype=torch.int64)),
    "a moment of a number": lambda: with_state(exp_avg=1.0),
    "a step that is NaN": lambda: with_state(step=torch.tensor(math.nan)),
    "a step below zero": lambda: with_state(step=torch.tensor(-1.0)),
    "a step between": lambda: with_state(step=0.5),
    "many steps": lambda: with_state(step=torch.ones(2)),
    "a step of text": lambda: with_state(step="1"),
}


@pytest.mark.parametrize("make", WRONG_OPTIMIZERS.values(), ids=WRONG_OPTIMIZERS)
def test_an_optimizers_state_that_no_optimizer_has_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(CheckpointError, match="optimizer"):
        load_tree(make())


def test_what_else_an_optimizer_keeps_cannot_replace_its_state() -> None:
    load_tree(tree_of_adam() | {"more": {"state": {}, "param_groups": []}})


class Projected(torch.optim.Optimizer):
    """One that keeps its moments in another shape, which only it knows."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {"step": 1, "exp_avg": torch.zeros(1)}


def test_an_optimizer_that_is_none_of_torchs_keeps_its_own_shapes() -> None:
    model = nn.Linear(3, 2)
    optimizer = Projected(model.parameters())
    load_optimizer(optimizer_part(optimizer, parameter_names(model)), optimizer, parameter_names(model))
    state: dict[str, Tensor] = next(iter(optimizer.state.values()))
    assert state["exp_avg"].shape == (1,)


def test_an_error_says_whose_state_it_is() -> None:
    text = "The checkpoint's loss scale cannot be loaded: KeyError: 'scale'"
    with pytest.raises(TornCheckpointError, match=text), named_errors("loss scale"):
        raise KeyError("scale")
