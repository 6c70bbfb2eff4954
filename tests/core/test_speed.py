from __future__ import annotations

import time
from typing import Any

import pytest
from transformers.trainer_utils import speed_metrics as theirs

from hftrain.core.speed import speed_metrics


@pytest.mark.parametrize(
    "counts", [{}, {"num_samples": 64}, {"num_samples": 64, "num_steps": 8}, {"num_steps": 8, "num_tokens": 1000}]
)
def test_rates_are_those_of_the_reference(counts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 103.21)
    assert speed_metrics("eval", 100.0, **counts) == theirs("eval", 100.0, **counts)
    assert list(speed_metrics("eval", 100.0, **counts)) == list(theirs("eval", 100.0, **counts))


def test_no_time_at_all_has_no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 100.0)
    assert speed_metrics("train", 100.0, 64, 8) == {"train_runtime": 0.0}
