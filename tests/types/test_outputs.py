from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
from transformers import trainer_utils

from hftrain.types import outputs
from hftrain.types.outputs import BestRun, EvalPrediction


@pytest.mark.parametrize("name", ["EvalLoopOutput", "PredictionOutput", "TrainOutput", "BestRun"])
def test_the_tuples_have_the_documented_fields(name: str) -> None:
    ours, theirs = getattr(outputs, name), getattr(trainer_utils, name)
    assert ours._fields == theirs._fields
    assert ours._field_defaults == theirs._field_defaults


@pytest.mark.parametrize("asked", [{}, {"inputs": 3}, {"losses": 4}, {"inputs": 3, "losses": 4}])
def test_a_prediction_unpacks_into_the_parts_that_were_asked_for(asked: dict[str, Any]) -> None:
    ours, theirs = EvalPrediction(1, 2, **asked), trainer_utils.EvalPrediction(1, 2, **asked)  # type: ignore[arg-type]
    assert list(ours) == list(theirs)
    assert [ours[index] for index in range(2)] == [theirs[index] for index in range(2)]
    with pytest.raises(IndexError):
        ours[len(list(ours))]


def test_a_prediction_takes_the_documented_arguments() -> None:
    theirs = inspect.signature(trainer_utils.EvalPrediction)
    assert list(inspect.signature(EvalPrediction).parameters) == list(theirs.parameters)


def test_a_best_run_is_a_tuple_of_four_that_knows_its_checkpoint() -> None:
    run = BestRun("3", 0.5, {"lr": 0.1}, checkpoint="out/checkpoint-5", step=5, metrics={"eval_loss": 0.5})
    assert (run.checkpoint, run.step, run.metrics) == ("out/checkpoint-5", 5, {"eval_loss": 0.5})
    assert run == ("3", 0.5, {"lr": 0.1}, None)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_best_run_keeps_its_attributes_in_a_copy(copied: Any) -> None:
    run = copied(BestRun("3", 0.5, {"lr": 0.1}, step=5))
    assert (run, run.step, run._replace(run_id="4").checkpoint) == (("3", 0.5, {"lr": 0.1}, None), 5, None)
