from __future__ import annotations

from typing import Any

import pytest

from hftrain.core.horizon import Horizon, compute_horizon
from hftrain.errors import ConfigurationError


def horizon(**changes: Any) -> Horizon:
    arguments: dict[str, Any] = {
        "num_batches": 8,
        "num_examples": 64,
        "num_train_epochs": 3.0,
        "max_steps": -1,
        "accumulation_steps": 1,
        "total_batch_size": 8,
    }
    return compute_horizon(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "max_steps", "epochs"),
    [
        ({"num_train_epochs": 3.0}, 24, 3),
        ({"num_train_epochs": 1.5}, 12, 2),
        ({"num_train_epochs": 1.3}, 11, 2),
        ({"max_steps": 10}, 10, 2),
        ({"accumulation_steps": 3}, 9, 3),
        ({"accumulation_steps": 100}, 3, 3),
    ],
)
def test_steps_and_epochs_follow_from_the_data_and_the_arguments(
    changes: dict[str, Any], max_steps: int, epochs: int
) -> None:
    found = horizon(**changes)
    assert (found.max_steps, found.num_train_epochs) == (max_steps, epochs)


def test_max_steps_overrides_epochs_and_counts_its_samples() -> None:
    found = horizon(max_steps=10, num_train_epochs=1.0)
    assert (found.num_train_samples, found.epoch_based) == (80, False)


def test_data_without_length_trains_for_max_steps() -> None:
    found = horizon(num_batches=None, num_examples=None, max_steps=7)
    assert (found.max_steps, found.num_batches, found.num_examples) == (7, None, 56)


def test_data_without_length_and_without_max_steps_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="Set max_steps to a positive number"):
        horizon(num_batches=None, num_examples=None)
