from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import trainer_callback as theirs

from hftrain.callbacks.progress import PrinterCallback, ProgressCallback, progress_callback_class
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState

ROW = {"loss": 1.23456789, "epoch": 0.5, "words": "x" * 50, "total_flos": 3}


def run(callback: Any, *, disable_tqdm: bool | None = False, steps: int = 5, **state_values: Any) -> None:
    """Two evaluated epochs of a run, then an evaluation alone."""
    args, control = SimpleNamespace(disable_tqdm=disable_tqdm), TrainerControl()
    state = TrainerState(max_steps=2 * steps, **state_values)
    callback.on_train_begin(args, state, control)
    for _ in range(2):
        for _ in range(steps):
            state.global_step += 1
            callback.on_step_end(args, state, control)
        callback.on_log(args, state, control, logs=dict(ROW))
        evaluate(callback, args, state, control)
    callback.on_train_end(args, state, control)
    evaluate(callback, args, state, control)
    callback.on_log(args, state, control, logs={"eval_loss": 1.0})


def evaluate(callback: Any, args: Any, state: Any, control: Any, loader: Any = (1, 2, 3)) -> None:
    for _ in range(3):
        callback.on_prediction_step(args, state, control, eval_dataloader=loader)
    callback.on_evaluate(args, state, control, metrics={})


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("world", [True, False])
@pytest.mark.parametrize("name", ["PrinterCallback", "ProgressCallback"])
def test_rows_are_printed_where_and_as_the_reference_prints_them(
    name: str, local: bool, world: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for cls in (globals()[name], getattr(theirs, name)):
        run(cls(), is_local_process_zero=local, is_world_process_zero=world)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert bool(printed[0]) == (local if name == "PrinterCallback" else world)


def test_a_row_is_printed_and_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs: dict[str, Any] = dict(ROW)
    PrinterCallback().on_log(None, TrainerState(), TrainerControl(), logs=logs)
    assert logs == ROW
    assert "total_flos" not in capsys.readouterr().out


def test_a_long_string_is_printed_as_its_length(capsys: pytest.CaptureFixture[str]) -> None:
    run(ProgressCallback(max_str_len=10))
    assert "'words': '<50 characters; ProgressCallback(max_str_len=10) leaves them out>'" in capsys.readouterr().out


def test_bars_reach_their_ends_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run(ProgressCallback())
    error = capsys.readouterr().err
    assert " 10/10 " in error
    assert error.rindex(" 3/3 ") > error.rindex(" 10/10 ")  # the evaluation alone keeps its bar


def test_bars_that_an_error_left_are_closed_and_the_next_begin_anew() -> None:
    callback, args, control = ProgressCallback(), SimpleNamespace(disable_tqdm=False), TrainerControl()
    state = TrainerState(max_steps=4, is_world_process_zero=True)
    callback.on_train_begin(args, state, control)
    callback.on_prediction_step(args, state, control, eval_dataloader=(1, 2))
    left = [callback.training_bar, callback.prediction_bar]
    callback.on_train_begin(args, state, control)
    callback.on_prediction_step(args, state, control, eval_dataloader=(1, 2, 3, 4, 5))
    callback.on_prediction_step(args, state, control, eval_dataloader=(1, 2, 3))
    assert [bar.disable for bar in left] == [True, True]  # tqdm says so of a closed bar
    assert (callback.prediction_bar.n, callback.prediction_bar.total) == (1, 3)
    callback.on_train_end(args, state, control)


@pytest.mark.parametrize("disable_tqdm", [True, None])
def test_no_bar_is_drawn_where_nobody_watches_and_rows_are(
    disable_tqdm: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(ProgressCallback(), disable_tqdm=disable_tqdm)
    out, error = capsys.readouterr()
    assert (error, out.count("'loss': 1.23456789")) == ("", 2)


def test_a_terminal_gets_bars_without_asking(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(ProgressCallback(), disable_tqdm=None)
    assert " 10/10 " in capsys.readouterr().err


def test_ten_thousand_quick_steps_draw_a_handful_of_bars(capsys: pytest.CaptureFixture[str]) -> None:
    run(ProgressCallback(), steps=5000)
    assert capsys.readouterr().err.count("/10000 ") < 200


def test_a_resumed_run_starts_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    callback = ProgressCallback()
    state = TrainerState(global_step=40, max_steps=100)
    callback.on_train_begin(SimpleNamespace(disable_tqdm=False), state, TrainerControl())
    assert callback.training_bar.n == 40
    callback.on_train_end(SimpleNamespace(disable_tqdm=False), state, TrainerControl())


def test_a_run_that_gets_more_steps_has_a_longer_bar(capsys: pytest.CaptureFixture[str]) -> None:
    callback, state, args = ProgressCallback(), TrainerState(max_steps=10), SimpleNamespace(disable_tqdm=False)
    callback.on_train_begin(args, state, TrainerControl())
    state.global_step, state.max_steps = 1, 20
    callback.on_step_end(args, state, TrainerControl())
    assert " 1/20 " in capsys.readouterr().err


def test_a_loader_without_length_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    args = SimpleNamespace(disable_tqdm=False)
    evaluate(ProgressCallback(), args, TrainerState(), TrainerControl(), loader=iter([1, 2, 3]))
    assert capsys.readouterr().err == ""


def test_each_evaluation_has_its_own_bar(capsys: pytest.CaptureFixture[str]) -> None:
    callback, args = ProgressCallback(), SimpleNamespace(disable_tqdm=False)
    for _ in range(2):
        evaluate(callback, args, TrainerState(), TrainerControl())
    assert capsys.readouterr().err.count(" 0/3 ") == 2


@pytest.mark.parametrize(
    ("disable_tqdm", "expected"), [(True, PrinterCallback), (False, ProgressCallback), (None, ProgressCallback)]
)
def test_a_run_without_bars_prints_its_rows(disable_tqdm: bool | None, expected: type) -> None:
    assert progress_callback_class(disable_tqdm) is expected


def test_tqdm_is_imported_when_a_bar_is_drawn() -> None:
    code = "import sys, hftrain.callbacks.progress; sys.exit('tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
