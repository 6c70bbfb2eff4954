from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as untyped_transformers
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hftrain.errors import ConfigurationError
from hftrain.optim import schedulers
from hftrain.optim.adafactor import Adafactor
from hftrain.optim.schedulers import get_scheduler
from hftrain.types.choices import SchedulerType

transformers: Any = untyped_transformers

NUM_TRAINING_STEPS = 40
ONE_OF_EACH: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {},
    "cosine_with_restarts": {},
    "polynomial": {},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "reduce_lr_on_plateau": {"patience": 1},
    "cosine_with_min_lr": {"min_lr": 1e-4},
    "warmup_stable_decay": {"num_decay_steps": 10},
}


def grid() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ONE_OF_EACH.items()
    for num_cycles in (0.25, 1.0, 2.5):
        yield "cosine", {"num_cycles": num_cycles}
        yield "cosine_with_min_lr", {"num_cycles": num_cycles, "min_lr_rate": 0.1}
    for cycles in (2, 3, 7):
        yield "cosine_with_restarts", {"num_cycles": cycles}
    for lr_end, power in itertools.product((0.0, 1e-7, 5e-4), (0.5, 1.0, 2.0)):
        yield "polynomial", {"lr_end": lr_end, "power": power}
    for kwargs in ({"min_lr": 0.0}, {"min_lr": 2e-3}, {"min_lr_rate": 0.0}, {"min_lr_rate": 0.5}):
        yield "cosine_with_min_lr", kwargs
    shapes = ("linear", "cosine", "1-sqrt")
    for rise, fall, floor in itertools.product(shapes, shapes, (0.0, 0.2)):
        yield (
            "warmup_stable_decay",
            {"num_decay_steps": 9, "warmup_type": rise, "decay_type": fall, "min_lr_ratio": floor},
        )
    yield "warmup_stable_decay", {"num_decay_steps": 9, "num_cycles": 1.5}
    yield "warmup_stable_decay", {"num_decay_steps": 0}


GRID = list(grid())
WARMUPS = [0, 1, 7, 40, 50]  # 50 is longer than the run


def make_optimizer() -> SGD:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 3e-4)]
    return SGD(groups, lr=1e-3)


def curve(scheduler: LRScheduler, *, steps: int = NUM_TRAINING_STEPS + 20) -> list[list[float]]:
    """The learning rates of both groups over the horizon and past it; a plateau sees one metric that never improves."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        metric = (1.0,) if isinstance(scheduler, ReduceLROnPlateau) else ()
        scheduler.step(*metric)
    return rates


def assert_curves_equal(ours: LRScheduler, theirs: LRScheduler) -> None:
    torch.testing.assert_close(
        torch.tensor(curve(ours), dtype=torch.float64),
        torch.tensor(curve(theirs), dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


def degenerate_in_the_reference(name: str, warmup: int) -> bool:
    return name == "polynomial" and warmup == NUM_TRAINING_STEPS  # it divides by zero there


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize(("name", "kwargs"), GRID, ids=[f"{name}-{kwargs}" for name, kwargs in GRID])
def test_the_curve_is_the_references_over_the_horizon_and_past_it(
    name: str, kwargs: dict[str, Any], warmup: int
) -> None:
    if degenerate_in_the_reference(name, warmup):
        rates = curve(get_scheduler(name, make_optimizer(), warmup, NUM_TRAINING_STEPS, kwargs))
        assert rates[warmup][0] == pytest.approx(kwargs.get("lr_end", 1e-7))
        return
    ours = get_scheduler(name, make_optimizer(), warmup, NUM_TRAINING_STEPS, kwargs)
    theirs = transformers.get_scheduler(name, make_optimizer(), warmup, NUM_TRAINING_STEPS, dict(kwargs))
    assert_curves_equal(ours, theirs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"mode": "max", "factor": 0.5, "patience": 2},
        {"cooldown": 3, "min_lr": 1e-5, "patience": 0},
        {"threshold_mode": "abs", "threshold": 0.5, "patience": 1, "min_lr": [1e-4, 1e-5], "eps": 1e-5},
    ],
)
def test_a_plateau_lowers_the_rate_as_the_references(kwargs: dict[str, Any]) -> None:
    ours = get_scheduler("reduce_lr_on_plateau", make_optimizer(), scheduler_specific_kwargs=kwargs)
    theirs = transformers.get_scheduler("reduce_lr_on_plateau", make_optimizer(), scheduler_specific_kwargs=kwargs)
    assert_curves_equal(ours, theirs)


@pytest.mark.parametrize(("warmup", "timescale"), [(0, None), (0, 3), (7, None), (7, 20), (7, 2)])
def test_inverse_sqrt_takes_its_timescale_through_get_scheduler_too(warmup: int, timescale: int | None) -> None:
    ours = get_scheduler("inverse_sqrt", make_optimizer(), warmup, scheduler_specific_kwargs={"timescale": timescale})
    assert_curves_equal(ours, transformers.get_inverse_sqrt_schedule(make_optimizer(), warmup, timescale))


@pytest.mark.parametrize("stable", [0, 5, 40])
def test_stable_steps_go_before_training_steps(stable: int) -> None:
    ours = get_scheduler(
        "warmup_stable_decay", make_optimizer(), 7, 100, {"num_stable_steps": stable, "num_decay_steps": 9}
    )
    theirs = transformers.get_wsd_schedule(make_optimizer(), 7, 9, num_stable_steps=stable)
    assert_curves_equal(ours, theirs)


@pytest.mark.parametrize(("name", "kwargs"), ONE_OF_EACH.items())
@pytest.mark.parametrize("steps_before", [0, 3, 25])
def test_a_state_that_went_through_strict_json_continues_exactly(
    name: str, kwargs: dict[str, Any], steps_before: int
) -> None:
    whole = get_scheduler(name, make_optimizer(), 7, NUM_TRAINING_STEPS, kwargs)
    curve(whole, steps=steps_before)
    saved_optimizer = copy.deepcopy(whole.optimizer.state_dict())
    saved = json.dumps(whole.state_dict(), allow_nan=False)

    optimizer = make_optimizer()
    resumed = get_scheduler(name, optimizer, 7, NUM_TRAINING_STEPS, kwargs)
    optimizer.load_state_dict(saved_optimizer)
    resumed.load_state_dict(json.loads(saved))
    optimizer.step()
    assert resumed.get_last_lr() == whole.get_last_lr()
    assert curve(resumed) == curve(whole)


@pytest.mark.parametrize(("name", "kwargs"), ONE_OF_EACH.items())
def test_a_state_of_the_reference_continues_here(name: str, kwargs: dict[str, Any]) -> None:
    theirs = transformers.get_scheduler(name, make_optimizer(), 7, NUM_TRAINING_STEPS, dict(kwargs))
    curve(theirs, steps=10)
    ours = get_scheduler(name, make_optimizer(), 7, NUM_TRAINING_STEPS, kwargs)
    ours.optimizer.load_state_dict(copy.deepcopy(theirs.optimizer.state_dict()))
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    ours.optimizer.step()
    assert_curves_equal(ours, theirs)


def test_a_resumed_run_follows_the_horizon_it_is_given() -> None:
    short = get_scheduler("linear", make_optimizer(), 0, 10)
    curve(short, steps=5)
    longer = get_scheduler("linear", make_optimizer(), 0, 100)
    longer.load_state_dict(short.state_dict())
    longer.optimizer.step()
    longer.step()
    assert longer.get_last_lr()[0] == pytest.approx(1e-3 * 94 / 100)


def test_a_plateau_that_has_seen_no_metric_loads_into_a_used_one() -> None:
    fresh, used = (schedulers.get_reduce_on_plateau_schedule(make_optimizer()) for _ in range(2))
    used.step(0.1)
    used.load_state_dict(fresh.state_dict())
    assert used.state_dict() == fresh.state_dict()
    assert used.best == float("inf")


@pytest.mark.parametrize(
    "name", [choice for choice in SchedulerType if choice not in {"constant", "reduce_lr_on_plateau"}]
)
def test_a_missing_warmup_names_the_schedule_and_the_argument(name: SchedulerType) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name.value}' requires num_warmup_steps"):
        get_scheduler(name, make_optimizer(), None, NUM_TRAINING_STEPS, ONE_OF_EACH[name.value])


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "cosine_with_min_lr"])
def test_a_missing_horizon_names_the_schedule_and_the_argument(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' requires num_training_steps"):
        get_scheduler(name, make_optimizer(), 5, None, ONE_OF_EACH[name])


@pytest.mark.parametrize("name", list(SchedulerType))
def test_an_unknown_keyword_argument_names_the_schedule_and_what_it_accepts(name: SchedulerType) -> None:
    accepted = {"cosine": "num_cycles", "polynomial": "lr_end, power", "inverse_sqrt": "timescale"}.get(name.value, "")
    with pytest.raises(ConfigurationError, match=f"'{name.value}' does not take wavs.*accepts .*{accepted}"):
        get_scheduler(name, make_optimizer(), 5, 40, {**ONE_OF_EACH[name.value], "wavs": 2})


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("warmup_stable_decay", {}, "needs num_decay_steps in lr_scheduler_kwargs={}.*accepts num_decay_steps"),
        ("warmup_stable_decay", {"num_decay_steps": 5, "decay_type": "cubic"}, "decay_type='cubic'.*1-sqrt"),
        ("cosine_with_min_lr", {}, "min_lr=None and min_lr_rate=None"),
        ("cosine_with_min_lr", {"min_lr": 1e-4, "min_lr_rate": 0.1}, "min_lr=0.0001 and min_lr_rate=0.1"),
        ("polynomial", {"lr_end": 1.0}, "lr_end=1.0 from the initial learning rate 0.001"),
        ("linear", {"num_warmup_steps": 3}, "does not take num_warmup_steps"),
        ("cosin", {}, "'cosin' is no SchedulerType: choose one of 'linear'"),
    ],
)
def test_keyword_arguments_that_cannot_be_used_are_refused(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_scheduler(name, make_optimizer(), 5, NUM_TRAINING_STEPS, kwargs)


def test_warmup_stable_decay_needs_to_know_when_to_decay() -> None:
    with pytest.raises(ConfigurationError, match="num_training_steps or num_stable_steps"):
        get_scheduler("warmup_stable_decay", make_optimizer(), 5, None, {"num_decay_steps": 5})


def test_a_schedule_over_an_adafactor_without_lr_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="get_adafactor_schedule"):
        get_scheduler("linear", Adafactor([nn.Parameter(torch.zeros(2))]), 0, 10)


def test_every_documented_schedule_has_its_signature() -> None:
    """Names and defaults as in transformers, so that a call written for it works after changing the import."""
    import inspect

    for name in (name for name in dir(transformers.optimization) if name.startswith("get_")):
        ours = inspect.signature(getattr(schedulers, name)).parameters.values()
        theirs = inspect.signature(getattr(transformers.optimization, name)).parameters.values()
        assert [(one.name, one.default) for one in ours] == [(one.name, one.default) for one in theirs], name
