from __future__ import annotations

import logging
import random
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import trainer_callback as theirs

from hftrain.callbacks.stopping import EarlyStoppingCallback
from hftrain.errors import ConfigurationError
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState


def arguments(**changes: Any) -> SimpleNamespace:
    values = {
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
    }
    return SimpleNamespace(**values | changes)


def counts(callback: Any, values: list[float], *, greater: bool) -> list[tuple[int, bool]]:
    """How many evaluations did not improve, and whether to stop, after each value."""
    state, rows = TrainerState(), []
    for value in values:
        control = TrainerControl()
        args = arguments(greater_is_better=greater)
        callback.on_evaluate(args, state, control, metrics={"eval_loss": value})
        rows.append((callback.early_stopping_patience_counter, control.should_training_stop))
        if state.best_metric is None or (value > state.best_metric if greater else value < state.best_metric):
            state.best_metric = value
    return rows


@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("patience", [1, 2, 5])
def test_it_counts_and_stops_as_the_reference_does(patience: int, threshold: float, greater: bool) -> None:
    rng = random.Random(patience)
    for _ in range(20):
        values = [rng.choice([rng.random(), 0.5, 1.0]) for _ in range(12)]
        ours = counts(EarlyStoppingCallback(patience, threshold), values, greater=greater)
        assert ours == counts(theirs.EarlyStoppingCallback(patience, threshold), values, greater=greater)


def test_after_a_best_that_is_no_number_every_number_improves() -> None:
    callback, control = EarlyStoppingCallback(), TrainerControl()
    state = TrainerState(best_metric=float("nan"))
    callback.on_evaluate(arguments(), state, control, metrics={"eval_loss": 4.0})
    assert not control.should_training_stop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric_for_best_model": None}, "metric_for_best_model, and that is None"),
        ({"eval_strategy": "no"}, 'eval_strategy="no" makes none'),
    ],
)
def test_what_it_cannot_work_without_is_asked_for_when_training_begins(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EarlyStoppingCallback().on_train_begin(arguments(**change), TrainerState(), TrainerControl())


def test_not_loading_the_best_model_is_remarked_upon(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        args = arguments(load_best_model_at_end=False)
        EarlyStoppingCallback().on_train_begin(args, TrainerState(), TrainerControl())
    assert "load_best_model_at_end=False" in caplog.text


def test_a_metric_that_evaluation_does_not_give_is_answered_with_those_it_gives() -> None:
    args, metrics = arguments(metric_for_best_model="f1"), {"eval_runtime": 1.0, "eval_loss": 2.0}
    with pytest.raises(ConfigurationError, match="'f1' asks for eval_f1, and evaluation gave eval_loss, eval_runtime"):
        EarlyStoppingCallback().on_evaluate(args, TrainerState(), TrainerControl(), metrics)


@pytest.mark.parametrize("asked", ["a_loss", "eval_a_loss"])
def test_of_several_evaluation_sets_only_the_one_with_the_metric_counts(asked: str) -> None:
    callback, state = EarlyStoppingCallback(3), TrainerState(best_metric=1.0)
    for metrics in ({"eval_b_loss": 9.0, "eval_b_runtime": 1.0}, {"eval_a_loss": 2.0, "eval_a_runtime": 1.0}):
        callback.on_evaluate(arguments(metric_for_best_model=asked), state, TrainerControl(), metrics)
    assert callback.early_stopping_patience_counter == 1


def test_an_evaluation_alone_needs_no_metric() -> None:
    control = TrainerControl()
    args = arguments(metric_for_best_model=None)
    EarlyStoppingCallback().on_evaluate(args, TrainerState(), control, {"eval_loss": 1.0})
    assert control == TrainerControl()


def test_its_state_is_the_reference_s_and_restores() -> None:
    ours, other = EarlyStoppingCallback(3, 0.1), theirs.EarlyStoppingCallback(3, 0.1)
    ours.early_stopping_patience_counter = other.early_stopping_patience_counter = 2
    assert ours.state() == other.state()
    assert vars(EarlyStoppingCallback.from_state(other.state())) == vars(ours)
