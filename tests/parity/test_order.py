"""The order of events, the rows and the state of runs that differ in how they log, evaluate, save, stop and go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.parity.harness import Cell, Record, both, problems, row_differences
from tests.parity.models import Stream, points

# The reference's own warnings are not ours to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

RUN: dict[str, Any] = {"num_train_epochs": 3, "logging_steps": 3}
EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4}
# A loss that should be large: the best is seen early, and is not the last.
WATCHED: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "metric_for_best_model": "loss",
    "greater_is_better": True,
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
    "shares of the run": {
        **EVALUATED,
        "logging_steps": 0.1,
        "eval_steps": 0.3,
        "save_strategy": "steps",
        "save_steps": 0.6,
    },
    "evaluation by steps": EVALUATED,
    "evaluation by epochs": {"eval_strategy": "epoch"},
    "evaluation first": {**EVALUATED, "eval_on_start": True},
    "late evaluation by steps": {**EVALUATED, "eval_delay": 9},
    "late evaluation by epochs": {"eval_strategy": "epoch", "eval_delay": 1.5},
    "evaluation and rows at the same steps": {
        **EVALUATED,
        "logging_steps": 4,
        "save_strategy": "steps",
        "save_steps": 8,
    },
    "saving by steps": {"save_strategy": "steps", "save_steps": 5},
    "saving by epochs": {"save_strategy": "epoch"},
    "keeping the best": {**WATCHED, "load_best_model_at_end": True},
    "keeping one": {**WATCHED, "save_total_limit": 1, "load_best_model_at_end": True},
    "best and steps": {**WATCHED, **EVALUATED, "save_strategy": "steps", "save_steps": 8},
    "best without a checkpoint": {**WATCHED, **EVALUATED, "save_strategy": "steps", "save_steps": 5},
    "a loss that is filtered": {"logging_nan_inf_filter": False},
    "no clipping": {"max_grad_norm": 0},
}

# Where runs are cut, and how they go on.
RESUMED: dict[str, tuple[dict[str, Any], int]] = {
    "in the middle of an epoch": ({"save_strategy": "steps", "save_steps": 5}, 10),
    "in the middle of an epoch of windows": (
        {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2},
        6,
    ),
    "at the end of an epoch": ({"save_strategy": "epoch"}, 16),
    "at the end of the run": ({"save_strategy": "epoch"}, 24),
    "without skipping data": ({"save_strategy": "steps", "save_steps": 5, "ignore_data_skip": True}, 10),
    "with evaluation": ({"save_strategy": "steps", "save_steps": 5, **EVALUATED}, 10),
    "of a part of an epoch": ({"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 1.9}, 10),
}


def cell(args: dict[str, Any], **changes: Any) -> Cell:
    return Cell(args={**RUN, **args}, data=lambda: points(60), eval_data=lambda: points(20, seed=1), **changes)


def assert_same(mine: Record, reference: Record) -> None:
    assert problems(Cell(steps=0), mine, reference) == []


def stopping(event: str, step: int, flag: str) -> Any:
    """Make callbacks that set a flag at an event of a step."""

    def make(library: Any) -> list[Any]:
        def on_event(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                setattr(control, flag, True)

        return [type("Stop", (library.TrainerCallback,), {event: on_event})()]

    return make


STOPS = [
    (event, step, flag)
    for flag in ("should_training_stop", "should_epoch_stop")
    for event, step in (
        ("on_step_begin", 5),
        ("on_substep_end", 1),
        ("on_pre_optimizer_step", 5),
        ("on_step_end", 2),
        ("on_step_end", 3),
        ("on_epoch_end", 3),
        ("on_log", 3),
        ("on_evaluate", 4),
        ("on_save", 5),
    )
]


@pytest.mark.parametrize(("event", "step", "flag"), STOPS)
def test_a_callback_stops_where_it_stops_the_reference(tmp_path: Path, event: str, step: int, flag: str) -> None:
    args = {**EVALUATED, "gradient_accumulation_steps": 3, "save_strategy": "steps", "save_steps": 5}
    mine, reference = both(cell(args, callbacks=stopping(event, step, flag)), tmp_path)
    assert mine.events == reference.events
    assert (mine.state["global_step"], mine.state["epoch"]) == (
        reference.state["global_step"],
        reference.state["epoch"],
    )


@pytest.mark.parametrize(
    ("flag", "event"),
    [
        ("should_log", "on_step_end"),
        ("should_log", "on_substep_end"),
        ("should_evaluate", "on_step_end"),
        ("should_evaluate", "on_epoch_end"),
        ("should_save", "on_step_end"),
        ("should_save", "on_pre_optimizer_step"),
        ("should_save", "on_epoch_end"),
    ],
)
def test_a_callback_asks_where_it_asks_the_reference(tmp_path: Path, flag: str, event: str) -> None:
    args = {"gradient_accumulation_steps": 2, "logging_steps": 100, "save_strategy": "no"}
    mine, reference = both(cell(args, callbacks=stopping(event, 4, flag)), tmp_path)
    assert mine.events == reference.events
    assert row_differences(mine, reference) == []


@pytest.mark.parametrize("patience", [1, 2])
def test_early_stopping_stops_at_the_same_evaluation(tmp_path: Path, patience: int) -> None:
    args = {**WATCHED, "num_train_epochs": 12, "load_best_model_at_end": True}
    mine, reference = both(cell(args, callbacks=lambda library: [library.EarlyStoppingCallback(patience)]), tmp_path)
    assert mine.state["global_step"] < 96
    assert_same(mine, reference)


@pytest.mark.parametrize("name", RUNS)
def test_events_rows_and_state_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    assert_same(*both(cell(RUNS[name]), tmp_path))


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_goes_on_as_the_reference_goes_on(tmp_path: Path, name: str) -> None:
    args, step = RESUMED[name]
    whole = both(cell(args), tmp_path)
    mine, reference = both(cell(args), tmp_path, resume=f"checkpoint-{step}")
    assert mine.events == reference.events
    assert mine.losses == pytest.approx(reference.losses, abs=1e-6)
    assert mine.weights == pytest.approx(reference.weights, abs=1e-6)
    # The first row after the cut and the mean of the run are of all steps here, and of those since the cut there.
    exact = [row for row in mine.rows if "train_loss" not in row and row["step"] > step + 3]
    theirs = [row for row in reference.rows if "train_loss" not in row and row["step"] > step + 3]
    assert row_differences(replace(mine, rows=exact), replace(reference, rows=theirs)) == []
    assert mine.training_loss == pytest.approx(whole[0].training_loss, rel=1e-6) or args.get("ignore_data_skip")


def test_the_best_is_saved_where_the_reference_saves_it_and_here_it_is_found_again(tmp_path: Path) -> None:
    args = {**WATCHED, "save_strategy": "best"}
    mine, reference = both(cell(args), tmp_path)
    assert (mine.events, row_differences(mine, reference)) == (reference.events, [])
    folders = ({path.name for path in (tmp_path / name).iterdir()} for name in ("hftrain", "transformers"))
    assert next(folders) == next(folders)
    # The reference forgets the step, and with it the checkpoint, of the best under this strategy.
    assert Path(mine.state["best_model_checkpoint"]).name == f"checkpoint-{mine.state['best_global_step']}"
    assert reference.state["best_model_checkpoint"] is None


def test_a_resumed_epoch_keeps_its_last_window_which_the_reference_loses(tmp_path: Path) -> None:
    args = {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 3}
    whole = both(cell(args), tmp_path)
    mine, reference = both(cell(args), tmp_path, resume="checkpoint-4")
    assert mine.weights.tolist() == whole[0].weights.tolist()
    assert mine.weights.tolist() != reference.weights.tolist()
    steps = [
        len([1 for name, _ in record.events if name == "on_optimizer_step"]) for record in (*whole, mine, reference)
    ]
    assert steps == [9, 9, 5, 4]


LIMITS: dict[str, dict[str, Any]] = {
    "one, and the best": {**WATCHED, "save_total_limit": 1, "load_best_model_at_end": True},
    "one, and a best that is not loaded": {**WATCHED, "save_total_limit": 1},
    "two, and the best": {**WATCHED, "save_total_limit": 2, "load_best_model_at_end": True, "num_train_epochs": 5},
    "one": {"save_total_limit": 1, "save_strategy": "steps", "save_steps": 5},
    "two": {"save_total_limit": 2, "save_strategy": "steps", "save_steps": 5},
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_same_checkpoints_are_kept_during_training_and_at_its_end(tmp_path: Path, name: str) -> None:
    kept: dict[str, list[list[str]]] = {}

    def watching(library: Any) -> list[Any]:
        def look(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folders = sorted(path.name for path in Path(args.output_dir).glob("checkpoint-*"))
            kept.setdefault(library.name, []).append(folders)

        return [type("Watch", (library.TrainerCallback,), {"on_save": look, "on_train_end": look})()]

    both(cell(LIMITS[name], callbacks=watching), tmp_path)
    assert kept["hftrain"] == kept["transformers"]


def test_a_window_that_a_stream_leaves_partial_is_a_step_here_and_is_carried_on_there(tmp_path: Path) -> None:
    args = {"max_steps": 4, "gradient_accumulation_steps": 4}
    mine, reference = both(Cell(data=lambda: Stream(points(52)), args=args), tmp_path)
    ends = [[step for name, step in record.events if name == "on_epoch_end"] for record in (mine, reference)]
    assert ends == [[2, 4], [1, 2, 3, 4]]


def test_a_checkpoints_state_is_the_references(tmp_path: Path) -> None:
    args = {**WATCHED, "load_best_model_at_end": True}
    both(cell(args, callbacks=lambda library: [library.EarlyStoppingCallback(5)]), tmp_path)
    for step in (8, 24):
        mine, reference = (
            json.loads((tmp_path / name / f"checkpoint-{step}" / "trainer_state.json").read_text())
            for name in ("hftrain", "transformers")
        )
        assert mine.keys() == reference.keys()
        assert mine["stateful_callbacks"] == reference["stateful_callbacks"]


@pytest.mark.parametrize("restore", [False, True])
def test_early_stopping_goes_on_as_in_the_reference(tmp_path: Path, restore: bool) -> None:
    args = {
        **WATCHED,
        "num_train_epochs": 12,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": restore,
    }
    patient = cell(args, callbacks=lambda library: [library.EarlyStoppingCallback(4)])
    both(patient, tmp_path)
    mine, reference = both(patient, tmp_path, resume="checkpoint-24")
    assert mine.events == reference.events
    assert mine.state["global_step"] == (40 if restore else 56)
