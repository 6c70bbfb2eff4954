"""The memory that evaluating may take; `evaluation.py` measures it, in fresh processes."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.evaluation import measured_ratio, timing

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.mark.parametrize("kind", ["equal", "ragged"])
def test_predictions_are_held_once(kind: str) -> None:
    assert measured_ratio("hftrain", kind, rows=4000, width=5000) <= 1.2


@pytest.mark.parametrize("kind", ["torchmetrics", "batch by batch"])
def test_memory_does_not_grow_with_the_batches_where_nothing_is_kept(kind: str) -> None:
    assert measured_ratio("hftrain", kind, rows=4000, width=5000) <= 0.1


def test_the_time_of_every_case_is_measured_beside_the_reference() -> None:
    ratios = timing(rows=100, width=10, repeats=1)
    assert ratios.keys() == {"small, loss only", "small, metrics", "wide", "ragged"}
    assert all(ratio > 0 for ratio in ratios.values())
