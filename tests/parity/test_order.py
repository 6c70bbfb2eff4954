"""The order of events, the rows and the state of runs that differ in how they log, evaluate, save, stop and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.parity.harness import Cell, Record, both, row_differences
from tests.parity.models import points

pytest.importorskip("transformers")
# The reference's own warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

RUN: dict[str, Any] = {"num_train_epochs": 3, "logging_steps": 3}
EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4}
WATCHED: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "metric_for_best_model": "loss",
    "greater_is_better": False,
}

RUNS: dict[str, dict[str, Any]] = {
    "steps": {},
    "windows": {"gradient_accumulation_steps": 3},
    "a window longer than the epoch": {"gradient_accumulation_steps": 20},
    "a part of an epoch": {"num_train_epochs": 1.3},
    "max_steps": {"max_steps": 10},
    "rows at the end of epochs": {"logging_strategy": "epoch"},
    "no rows": {"logging_strategy": "no"},
    "a first row": {"logging_first_step": True, "logging_steps": 5},
    "shares of the run": {**EVALUATED, "logging_steps": 0.1, "eval_steps": 0.3, "save_strategy": "steps",
                          "save_steps": 0.6},
    "evaluation by steps": EVALUATED,
    "evaluation by epochs": {"eval_strategy": "epoch"},
    "evaluation first": {**EVALUATED, "eval_on_start": True},
    "late evaluation by steps": {**EVALUATED, "eval_delay": 9},
    "late evaluation by epochs": {"eval_strategy": "epoch", "eval_delay": 1.5},
    "evaluation and rows at the same steps": {**EVALUATED, "logging_steps": 4, "save_strategy": "steps",
                                              "save_steps": 8},
    "saving by steps": {"save_strategy": "steps", "save_steps": 5},
    "saving by epochs": {"save_strategy": "epoch"},
    "saving the best": {**WATCHED, "save_strategy": "best"},
    "keeping the best": {**WATCHED, "load_best_model_at_end": True, "learning_rate": 0.5},
    "keeping one": {**WATCHED, "save_total_limit": 1, "load_best_model_at_end": True, "learning_rate": 0.5},
    "best and steps": {**WATCHED, **EVALUATED, "save_strategy": "steps", "save_steps": 8, "learning_rate": 0.5},
    "best without a checkpoint": {**WATCHED, **EVALUATED, "save_strategy": "steps", "save_steps": 5},
    "a loss that is filtered": {"logging_nan_inf_filter": False},
    "no clipping": {"max_grad_norm": 0},
}

# Written anew by every process, or counted by the reference only where its own model says how.
OWN = {"log_history", "stateful_callbacks", "best_model_checkpoint"}


def cell(args: dict[str, Any], **changes: Any) -> Cell:
    return Cell(args={**RUN, **args}, data=lambda: points(60), eval_data=lambda: points(20, seed=1), **changes)


def assert_same(mine: Record, reference: Record) -> None:
    assert mine.events == reference.events
    assert row_differences(mine, reference) == []
    assert {name: mine.state[name] for name in mine.state.keys() - OWN} == {
        name: reference.state[name] for name in reference.state.keys() - OWN
    } or _nearly(mine.state, reference.state)
    best, expected = (record.state["best_model_checkpoint"] for record in (mine, reference))
    assert (best and Path(best).name) == (expected and Path(expected).name)
    assert mine.keywords == reference.keywords


def _nearly(mine: dict[str, Any], reference: dict[str, Any]) -> bool:
    for name in mine.keys() - OWN:
        assert mine[name] == pytest.approx(reference[name], rel=1e-6), name
    return True


@pytest.mark.parametrize("name", RUNS)
def test_events_rows_and_state_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    assert_same(*both(cell(RUNS[name]), tmp_path))
