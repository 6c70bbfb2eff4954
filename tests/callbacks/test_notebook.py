from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hftrain.callbacks.notebook import MetricsTable, NotebookProgressCallback, ProgressBar, clock, in_notebook
from hftrain.callbacks.progress import PrinterCallback, ProgressCallback, progress_callback_class
from hftrain.types.control import TrainerControl
from hftrain.types.state import TrainerState


class Output:
    """What a notebook shows: every version of one cell's output."""

    def __init__(self, first: str) -> None:
        self.versions = [first]

    def update(self, shown: Any) -> None:
        self.versions.append(shown.data)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Output]]:
    """An IPython whose kernel runs and whose displays are kept."""
    made: list[Output] = []

    def display(shown: Any, display_id: bool) -> Output:
        made.append(Output(shown.data))
        return made[-1]

    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    displays.HTML, displays.display = (lambda data: SimpleNamespace(data=data)), display  # type: ignore[attr-defined]
    ipython.display = displays  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    yield made
    sys.modules.pop("transformers.utils.notebook", None)  # it imported this IPython


def run(callback: Any, strategy: str, *, is_main: bool = True) -> None:
    """Four steps of two epochs, evaluated or logged after each, then an evaluation alone."""
    args, control = SimpleNamespace(eval_strategy=strategy), TrainerControl()
    state = TrainerState(max_steps=4, num_train_epochs=2, is_world_process_zero=is_main, epoch=0.0)
    callback.on_train_begin(args, state, control)
    for step in range(1, 5):
        state.global_step, state.epoch = step, step / 2
        callback.on_step_end(args, state, control)
        if strategy == "no":
            callback.on_log(args, state, control, logs={"loss": float(step)})
        elif strategy == "steps" or step % 2 == 0:
            state.log_history.append({"loss": float(step)})
            evaluate(callback, args, state, control)
    callback.on_train_end(args, state, control)
    evaluate(callback, args, state, control)


def evaluate(callback: Any, args: Any, state: Any, control: Any) -> None:
    for _ in range(3):
        callback.on_prediction_step(args, state, control, eval_dataloader=[1, 2, 3])
    metrics = {"eval_loss": 0.5, "eval_f1_score": 0.25, "eval_runtime": 1.0, "epoch": state.epoch}
    metrics |= {"eval_samples_per_second": 1.0, "eval_steps_per_second": 1.0}
    callback.on_evaluate(args, state, control, metrics=metrics)
    assert len(metrics) == 6


def tables(strategy: str, outputs: list[Output]) -> tuple[list[list[str]], list[list[Any]]]:
    """The table of a run as ours and as the reference's callback has it when training ends, headers first."""
    kept: dict[str, Any] = {}

    class Ours(NotebookProgressCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            kept["ours"] = self.table
            super().on_train_end(*args, **kwargs)

    from transformers.utils import notebook as reference

    class Theirs(reference.NotebookProgressCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            kept["theirs"] = self.training_tracker.inner_table
            super().on_train_end(*args, **kwargs)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            super().on_evaluate(args, state, control, metrics=dict(metrics), **kwargs)

    run(Ours(), strategy)
    run(Theirs(), strategy)
    ours = kept["ours"]
    return [ours.columns, *([row[name] for name in ours.columns] for row in ours.rows)], kept["theirs"]


@pytest.mark.parametrize("strategy", ["no", "steps", "epoch"])
def test_the_table_is_the_references(strategy: str, outputs: list[Output]) -> None:
    ours, theirs = tables(strategy, outputs)
    assert ours == theirs
    assert len(ours) == {"no": 5, "steps": 5, "epoch": 3}[strategy]


def test_a_run_is_drawn_in_one_place_and_a_later_evaluation_in_another(outputs: list[Output]) -> None:
    run(NotebookProgressCallback(), "steps")
    training, alone = (output.versions for output in outputs)
    assert "max='4'" in training[0]
    assert "<td>0.500000</td><td>0.250000</td>" in training[-1]
    assert "[4/4 " in training[-1]
    assert any("max='3'" in version for version in alone)


def test_the_bar_of_an_evaluation_stands_below_the_table_and_goes(outputs: list[Output]) -> None:
    run(NotebookProgressCallback(), "steps")
    versions = outputs[0].versions
    during = next(version for version in versions if "[1/3 " in version)
    assert during.index("</table>") < during.index("[1/3 ")
    assert "/3 " not in versions[-1]


def test_after_an_evaluation_that_failed_the_next_has_a_bar_of_its_own(outputs: list[Output]) -> None:
    callback, control = NotebookProgressCallback(), TrainerControl()
    args, state = SimpleNamespace(eval_strategy="no"), TrainerState(max_steps=4, is_world_process_zero=True)
    for loader in ([1, 2, 3, 4, 5], [1, 2, 3]):
        callback.on_prediction_step(args, state, control, eval_dataloader=loader)
    assert callback.prediction_bar is not None
    assert (callback.prediction_bar.position, callback.prediction_bar.total) == (1, 3)
    callback.on_train_begin(args, state, control)
    assert callback.prediction_bar is None


def test_another_process_draws_nothing(outputs: list[Output]) -> None:
    run(NotebookProgressCallback(), "steps", is_main=False)
    assert outputs == []


def test_ten_thousand_quick_steps_are_drawn_a_handful_of_times(outputs: list[Output]) -> None:
    callback, args = NotebookProgressCallback(), SimpleNamespace(eval_strategy="no")
    state = TrainerState(max_steps=10_000, epoch=0.0)
    callback.on_train_begin(args, state, TrainerControl())
    for state.global_step in range(1, 10_001):
        callback.on_step_end(args, state, TrainerControl())
    assert len(outputs[0].versions) < 100


def test_a_loader_without_length_has_no_bar(outputs: list[Output]) -> None:
    callback, args = NotebookProgressCallback(), SimpleNamespace(eval_strategy="no")
    callback.on_prediction_step(args, TrainerState(), TrainerControl(), eval_dataloader=iter([1]))
    callback.on_predict(args, TrainerState(), TrainerControl(), metrics={})
    assert outputs == []


def test_a_column_that_comes_later_is_empty_before() -> None:
    table = MetricsTable(["Step", "Training Loss"])
    table.write({"Step": 1, "Training Loss": 2.0})
    table.write({"Step": 2, "Training Loss": 1.0, "<F1>": 0.5})
    assert "<th>&lt;F1&gt;</th>" in table.html()
    assert "<td>2.000000</td><td>No log</td>" in table.html()


def test_a_step_that_is_written_again_is_completed() -> None:
    table = MetricsTable(["Step", "A Loss"])
    table.write({"Step": 1, "A Loss": 2.0})
    table.write({"Step": 1, "B Loss": 3.0})
    assert table.rows == [{"Step": 1, "A Loss": 2.0, "B Loss": 3.0}]


def test_a_bar_says_how_far_it_is() -> None:
    bar = ProgressBar(10, 4)
    assert "<progress value='4' max='10'" in bar.html()
    bar.position, bar.comment = 6, "Epoch 1/2"
    assert "[6/10 00:00 &lt; 00:00, " in bar.html()
    assert ", Epoch 1/2]" in bar.html()


@pytest.mark.parametrize(("seconds", "shown"), [(0.9, "00:00"), (61, "01:01"), (3725, "1:02:05")])
def test_times_are_minutes_and_seconds_with_hours_if_any(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("disable_tqdm", "expected"),
    [(True, PrinterCallback), (False, NotebookProgressCallback), (None, NotebookProgressCallback)],
)
def test_a_notebook_has_the_table_unless_bars_are_switched_off(
    disable_tqdm: bool | None, expected: type, outputs: list[Output]
) -> None:
    assert progress_callback_class(disable_tqdm) is expected


def test_ipython_on_a_terminal_is_no_notebook(outputs: list[Output], monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"TerminalIPythonApp": {}})
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    assert not in_notebook()
    assert progress_callback_class(None) is ProgressCallback


def test_without_ipython_there_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
