from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection

from hftrain.core.metrics import MetricSet, are_metrics, plain_metrics
from hftrain.errors import TaskError
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings

ENGINE = create_engine(EngineSettings(accelerator="cpu"))
OUTPUT = {"loss": torch.tensor(1.0), "preds": torch.tensor([1.0, 2.0]), "target": torch.tensor([1.0, 4.0])}


def measured(metrics: Any, *outputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    found = MetricSet(metrics, engine=ENGINE, **options)
    for output in outputs:
        found.add(output, 2, is_last=False)
    return found.compute()


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        (MeanSquaredError(), ["MeanSquaredError"]),
        ({"mse": MeanSquaredError()}, ["mse"]),
        (MetricCollection({"a": MeanSquaredError(), "b": MeanSquaredError(squared=False)}), ["a", "b"]),
    ],
)
def test_one_a_dict_or_a_collection_of_metrics_are_updated(metrics: Any, names: list[str], by_name: bool) -> None:
    found = measured(metrics, OUTPUT, OUTPUT, by_name=by_name)
    assert list(found) == names
    assert found[names[0]] == 2.0


def test_a_metric_gets_what_its_update_names() -> None:
    assert measured({"mean": MeanMetric()}, {**OUTPUT, "value": torch.tensor(3.0)}) == {"mean": 3.0}
    with pytest.raises(TaskError, match="'mean' .MeanMetric. takes value.*Return 'value' too"):
        measured({"mean": MeanMetric()}, OUTPUT)


def test_metrics_start_afresh_and_answer_nothing_unless_updated() -> None:
    metric = MeanSquaredError()
    assert measured({"mse": metric}, OUTPUT) == measured({"mse": metric}, OUTPUT) == {"mse": 2.0}
    assert measured({"mse": metric}) == {}
    assert measured({"mse": metric}, {**OUTPUT, "target": None}, by_name=False) == {}


def test_a_filler_counts_nowhere() -> None:
    found = MetricSet({"mse": MeanSquaredError()}, engine=ENGINE)
    found.add(OUTPUT, 2, is_last=False)
    found.add({**OUTPUT, "preds": torch.tensor([9.0, 9.0])}, 0, is_last=True)
    assert found.compute() == {"mse": 2.0}


def test_a_metric_with_several_values_has_a_name_for_each() -> None:
    class Both:
        def update(self, preds: Any) -> None: ...

        def reset(self) -> None: ...

        def compute(self) -> dict[str, Any]:
            return {"low": torch.tensor(1), "all": torch.tensor([1, 2])}

    assert measured({"range": Both()}, OUTPUT) == {"range_low": 1, "range_all": [1, 2]}


def test_a_function_is_told_from_metrics() -> None:
    assert [are_metrics(one) for one in (MeanSquaredError(), {}, None, len)] == [True, True, False, False]
    with pytest.raises(TaskError, match=r"configure_metrics\(\) is a list. Give a dict"):
        MetricSet([MeanSquaredError()], engine=ENGINE)


def test_what_a_function_returns_becomes_plain() -> None:
    found = plain_metrics({"a": np.float32(0.5), "b": torch.tensor([2]), "c": [np.int64(1)], "d": {"e": 1}}, len)
    assert found == {"a": 0.5, "b": 2, "c": [1], "d": {"e": 1}}
    assert [type(value) for value in found.values()] == [float, int, list, dict]
    with pytest.raises(TaskError, match=r"compute_metrics \(len\) returned list .* Return a dict"):
        plain_metrics([1], len)
