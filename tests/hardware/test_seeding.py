from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hftrain.errors import ConfigurationError
from hftrain.hardware.seeding import (
    enable_full_determinism,
    random_numbers_kept,
    rng_state,
    seed_rank,
    set_rng_state,
    set_seed,
)


@pytest.fixture(autouse=True)
def _leave_generators_and_switches_alone() -> Iterator[None]:
    before, environment = rng_state(), dict(os.environ)
    yield
    set_rng_state(before)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    os.environ.clear()
    os.environ.update(environment)


def draw() -> tuple[Any, ...]:
    return (
        random.random(),
        random.gauss(),
        np.random.rand(3).tolist(),
        np.random.randn(3).tolist(),
        torch.randn(3).tolist(),
        torch.randperm(5).tolist(),
    )


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint does: tensors apart, the rest through JSON."""
    tensors = {key: value.clone() for key, value in state.items() if isinstance(value, Tensor)}
    document = json.loads(json.dumps({key: value for key, value in state.items() if key not in tensors}))
    return {**tensors, **document}


def test_the_same_seed_gives_the_same_numbers_everywhere() -> None:
    set_seed(7)
    first = draw()
    set_seed(7)
    assert draw() == first
    set_seed(8)
    assert draw() != first


def test_seeds_agree_with_the_generators_own() -> None:
    set_seed(3)
    got = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    assert got == (random.random(), np.random.rand(), torch.rand(1).item())


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_with_the_range(seed: int) -> None:
    with pytest.raises(ConfigurationError, match=f"seed={seed} is out of range. Set 0 to 4294967295"):
        set_seed(seed)


@pytest.mark.parametrize("draws_before", [0, 1, 2, 700])
def test_the_state_survives_json_and_tensors_bit_for_bit(draws_before: int) -> None:
    set_seed(11)
    for _ in range(draws_before):
        random.gauss()
        np.random.randn()  # odd counts leave half a pair waiting
        torch.randn(1)
    saved = through_json(rng_state())
    expected = draw()
    draw()
    set_rng_state(saved)
    assert draw() == expected


def test_the_state_of_a_missing_device_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("the state would be restored: this machine has the device")
    set_rng_state({**rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)})
    assert "random state of cuda was not restored" in caplog.text


def test_full_determinism_sets_seed_algorithms_and_environment() -> None:
    set_seed(5)
    expected = draw()
    enable_full_determinism(5)
    assert draw() == expected
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_full_determinism_can_warn_only() -> None:
    enable_full_determinism(5, warn_only=True)
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_deterministic_algorithms_can_come_with_the_seed() -> None:
    set_seed(5, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()


def test_a_process_that_joins_a_run_has_numbers_of_its_own_each_time_the_same() -> None:
    places = [(42, 7, 1), (42, 7, 2), (42, 8, 1), (43, 7, 1)]
    drawn = []
    for seed, step, rank in [*places, *places]:
        seed_rank(seed, step=step, rank=rank)
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert drawn[:4] == drawn[4:]
    assert len(set(drawn)) == 4


def test_what_seeds_or_draws_inside_leaves_the_random_numbers_as_they_were() -> None:
    set_seed(3)
    draw()
    before = rng_state()
    expected = draw()
    set_rng_state(before)
    with random_numbers_kept():
        set_seed(1337)
        draw()
    assert draw() == expected
