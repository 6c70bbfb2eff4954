from __future__ import annotations

import math

import pytest
import torch

from hftrain.core.meters import FOLD_AFTER, LossWindow, Meters, Series


def alone(value: float) -> float:
    return value


def test_a_series_gives_back_its_values_in_order_across_folds_and_kinds() -> None:
    series = Series([0.5])
    expected = [0.5]
    for index in range(2 * FOLD_AFTER + 3):
        series.append(float(index) if index % 7 == 0 else torch.tensor(float(index)))
        expected.append(float(index))
    assert series.read() == expected
    assert series.read() == expected


def test_a_series_does_not_keep_the_base_of_a_view_alive() -> None:
    series = Series()
    logits = torch.zeros(1000, 1000)
    series.append(logits[3, 4])
    assert series._open[0].untyped_storage().nbytes() == 4  # type: ignore[union-attr]


def test_a_copy_of_a_series_does_not_see_what_comes_later() -> None:
    series = Series([0.5])
    for index in range(FOLD_AFTER + 1):
        series.append(float(index))
    copied = series.copy()
    series.append(7.0)
    assert copied.read() == series.read()[:-1]


def test_meters_go_back_to_a_copy() -> None:
    meters = Meters()
    meters.add("size", 4.0)
    copied = meters.copy()
    meters.add("size", 8.0)
    meters.add("another", 1.0)
    meters.restore(copied)
    assert meters.close(lambda sums: [sums]) == {"size": 4.0}


def test_a_window_is_the_mean_over_its_steps() -> None:
    window = LossWindow(filter_nonfinite=True)
    for share in (1.0, 2.0, 3.0, 6.0):  # two steps of two micro-batches
        window.shares.append(torch.tensor(share))
    assert window.close(2, alone) == 6.0
    window.shares.append(torch.tensor(4.0))
    assert window.close(3, alone) == 4.0
    assert window.total == 16.0


def test_a_filtered_loss_counts_as_the_average_of_its_window() -> None:
    window = LossWindow(filter_nonfinite=True)
    for share in (1.0, math.nan, 3.0, math.inf):
        window.shares.append(torch.tensor(share))
    assert window.close(4, alone) == pytest.approx(2.0)


def test_without_the_filter_a_nan_is_logged() -> None:
    window = LossWindow(filter_nonfinite=False)
    window.shares.append(torch.tensor(1.0))
    window.shares.append(torch.tensor(math.nan))
    assert math.isnan(window.close(2, alone))


def test_a_window_of_nothing_but_nan_says_so() -> None:
    window = LossWindow(filter_nonfinite=True)
    window.shares.append(torch.tensor(math.nan))
    assert math.isnan(window.close(1, alone))


def test_an_open_window_goes_on_from_its_state() -> None:
    window = LossWindow(filter_nonfinite=True)
    window.shares.append(torch.tensor(0.1))
    window.close(1, alone)
    window.shares.append(torch.tensor(0.3))
    window.shares.append(torch.tensor(math.inf))
    resumed = LossWindow(filter_nonfinite=True, state=window.state_dict())
    for either in (window, resumed):
        either.shares.append(torch.tensor(0.2))
    assert resumed.close(4, alone) == window.close(4, alone)
    assert resumed.total == window.total


def test_a_meter_is_the_weighted_mean_over_all_ranks() -> None:
    meters = Meters()
    meters.add("accuracy", torch.tensor([0.5]), weight=2)
    meters.add("accuracy", 1.0, weight=torch.tensor(6))
    assert meters.close(lambda sums: [sums, {"accuracy": (0.0, 2.0), "other": (3.0, 1.0)}]) == {
        "accuracy": pytest.approx(0.7),
        "other": 3.0,
    }
    assert meters.close(lambda sums: [sums]) == {}
