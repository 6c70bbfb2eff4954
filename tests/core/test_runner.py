from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hftrain.core.task import TaskModule
from hftrain.data.epochs import EpochLoader
from hftrain.data.loaders import train_loader
from hftrain.data.settings import LoaderSettings
from hftrain.hardware.engine import Engine
from hftrain.types.choices import Event
from tests.core.fakes import Recorder, run

STEP = ["on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]


class Mean(TaskModule):
    """Moves one weight to the mean of what it sees, and writes down the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[float]] = []

    def training_step(self, batch: Tensor) -> Any:
        self.seen.append(batch.tolist())
        return (self.weight - batch).square().mean()


class Counted(Mean):
    def training_step(self, batch: Tensor, num_items: Tensor) -> Tensor:
        return (self.weight - batch).square().sum() / num_items

    def count_items(self, group: Sequence[Tensor]) -> Tensor:
        self.seen.append([float(len(batch)) for batch in group])
        return torch.tensor(sum(len(batch) for batch in group))


class Stream(IterableDataset[float]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[float]:
        return iter([float(i) for i in range(self.length)])


def floats(count: int) -> list[float]:
    return [float(i) for i in range(count)]


def test_events_come_in_the_documented_order() -> None:
    flags = {(Event.STEP_END, 1): "should_log", (Event.EPOCH_END, 2): "should_evaluate"}
    _, heard = run(Mean(), floats(8), flags=flags)
    assert heard.trace == ["on_train_begin", "on_epoch_begin", *STEP, "log", *STEP, "on_epoch_end", "evaluate"]


def test_a_window_has_one_substep_event_less_than_batches() -> None:
    _, heard = run(Mean(), floats(12), accumulation_steps=3)
    assert heard.trace[2:-1] == [STEP[0], "on_substep_end", "on_substep_end", *STEP[1:]]


def test_the_flags_are_answered_in_order_log_evaluate_save() -> None:
    flags = {
        (Event.OPTIMIZER_STEP, 0): "should_save",
        (Event.PRE_OPTIMIZER_STEP, 0): "should_evaluate",
        (Event.STEP_END, 1): "should_log",
    }
    _, heard = run(Mean(), floats(4), flags=flags)
    assert heard.trace[-4:] == ["log", "evaluate", "save", "on_epoch_end"]


def test_a_last_partial_window_is_an_update_of_its_own() -> None:
    task = Mean()
    runner, _ = run(task, floats(20), accumulation_steps=2)
    assert (runner.state.global_step, len(task.seen)) == (3, 5)


def test_micro_batches_of_a_partial_window_weigh_equally() -> None:
    whole, window = Mean(), Mean()
    run(whole, floats(8), batch_size=8)
    run(window, floats(8), batch_size=4, accumulation_steps=5)
    assert torch.allclose(whole.weight, window.weight)


def test_items_are_counted_over_the_whole_window_before_its_first_backward() -> None:
    whole, counted = Counted(), Counted()
    run(whole, floats(10), batch_size=10)
    run(counted, floats(10), batch_size=4, accumulation_steps=3)
    assert counted.seen == [[4.0, 4.0, 2.0]]
    assert torch.allclose(whole.weight, counted.weight)


def test_a_stream_without_length_groups_what_it_gives() -> None:
    task = Counted()
    runner, _ = run(task, Stream(20), accumulation_steps=3, max_steps=5)
    assert (runner.state.global_step, task.seen) == (5, [[4.0] * 3, [4.0] * 2, [4.0] * 3, [4.0] * 2, [4.0] * 3])


def test_a_loader_that_ends_early_trains_what_it_gave_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Short(DataLoader[float]):
        def __len__(self) -> int:
            return 5

    task = Mean()
    with caplog.at_level(logging.WARNING):
        runner, _ = run(task, Short(floats(12), batch_size=4), epochs=2)  # type: ignore[arg-type]
    assert runner.state.global_step == 6
    assert caplog.text.count("says it has 5 batches and ended after 3") == 1


def test_nothing_is_drawn_from_the_loader_ahead_of_its_step() -> None:
    drawn: list[int] = []

    class Watched(list[float]):
        def __getitem__(self, index: Any) -> Any:
            drawn.append(index)
            return super().__getitem__(index)

    class Watching(Mean):
        def training_step(self, batch: Tensor) -> Any:
            self.seen.append([float(len(drawn))])
            return super().training_step(batch)

    task = Watching()
    run(task, Watched(floats(16)), accumulation_steps=2)
    assert task.seen[::2] == [[4.0], [8.0], [12.0], [16.0]]


def test_rows_carry_what_the_window_did() -> None:
    flags = {(Event.STEP_END, 2): "should_log"}
    _, heard = run(Mean(), floats(8), flags=flags, max_grad_norm=1.0)
    assert list(heard.rows[0]) == ["loss", "grad_norm", "learning_rate"]
    assert heard.rows[0]["learning_rate"] == 0.1


class TwoAtMost:
    """Refuses the second attempt and goes on with batches of two, as if the memory had run out."""

    def __init__(self, data: list[float]) -> None:
        self.data = data
        self.attempts = 0

    def attempt(self, accumulate: Callable[[], bool]) -> bool | None:
        self.attempts += 1
        outcome = accumulate()
        return None if self.attempts == 2 else outcome

    def reopen(self, loop: Any) -> Iterator[Any]:
        loop.engine.zero_grad(loop.optimizer)
        loop.source = EpochLoader(train_loader(self.data, LoaderSettings(batch_size=2, seed=0)))
        return loop.source.open(0, samples_done=loop.position.samples)


def test_a_step_that_does_not_fit_is_made_again_of_smaller_batches() -> None:
    task, data = Mean(), floats(8)
    flags = {(Event.STEP_END, step): "should_log" for step in (1, 2, 3)}
    runner, heard = run(task, data, flags=flags, fitter=TwoAtMost(data), max_steps=3)
    first, refused, *again = task.seen
    assert refused == [*again[0], *again[1]]
    log = [*STEP, "log"]
    assert heard.trace == [
        "on_train_begin", "on_epoch_begin", *log, "on_step_begin", *log, *log, "on_epoch_end",
    ]  # fmt: skip
    assert heard.rows[0]["loss"] == pytest.approx(sum(value**2 for value in first) / 4)
    assert (runner.position.epoch, runner.position.samples) == (1, 0)
    # What the refused attempt recorded is in no row: each of the later rows is the mean of two samples.
    weight = 0.2 * sum(first) / 4
    assert heard.rows[1]["loss"] == pytest.approx(sum((value - weight) ** 2 for value in again[0]) / 2)


def test_without_clipping_there_is_no_norm() -> None:
    _, heard = run(Mean(), floats(8), flags={(Event.STEP_END, 2): "should_log"})
    assert "grad_norm" not in heard.rows[0]


def test_a_step_that_did_not_step_leaves_the_schedule_alone_and_drops_the_gradients() -> None:
    from tests.core.fakes import LoopRunner

    class Schedule:
        steps = 0

        def step(self) -> None:
            self.steps += 1

    runner, _ = run(Mean(), floats(4))
    schedule = Schedule()
    runner.scheduler = schedule
    runner.engine.optimizer_step = lambda optimizer: False  # type: ignore[method-assign]
    runner.task.bind(runner.engine, training=True)  # type: ignore[attr-defined]
    LoopRunner._run_step(runner, (torch.ones(2),), 1)
    assert schedule.steps == 0
    assert runner.task.weight.grad is None  # type: ignore[attr-defined]


def test_positions_count_batches_and_samples_of_the_epoch() -> None:
    runner, _ = run(Mean(), floats(10), max_steps=2)
    assert runner.position.to_dict() == {"epoch": 0, "batches": 2, "samples": 8}
    assert runner.state.epoch == pytest.approx(2 / 3)


def test_the_total_loss_is_the_mean_over_all_steps() -> None:
    flags = {(Event.STEP_END, 1): "should_log"}
    runner, heard = run(Mean(), floats(8), flags=flags)
    assert runner.train_loss() > 0
    assert runner.losses.total == pytest.approx(2 * runner.train_loss())


def test_training_stops_in_the_middle_of_an_epoch_when_asked() -> None:
    runner, heard = run(Mean(), floats(20), epochs=3, flags={(Event.STEP_END, 2): "should_training_stop"})
    assert runner.state.global_step == 2
    assert heard.trace[-1] == "on_epoch_end"


def test_a_window_is_left_in_its_middle_when_a_listener_asks() -> None:
    flags = {(Event.SUBSTEP_END, 1): "should_training_stop"}
    runner, heard = run(Mean(), floats(24), accumulation_steps=3, flags=flags)
    assert heard.trace[-4:] == ["on_step_end", "on_step_begin", "on_substep_end", "on_epoch_end"]
    assert (runner.state.global_step, runner.position.batches) == (1, 3)
    assert runner.task.weight.grad is None  # type: ignore[attr-defined]


def test_a_rows_loss_is_rounded_only_when_asked() -> None:
    losses = []
    for decimals in (None, 2):
        flags = {(Event.STEP_END, 1): "should_log"}
        runner, heard = run(Mean(), [0.123, 0.456, 0.789, 0.1], flags=flags, loss_decimals=decimals)
        losses.append((heard.rows[0]["loss"], runner.train_loss()))
    (exact, mean), (rounded, same_mean) = losses
    assert (rounded, same_mean) == (round(exact, 2), mean)
    assert rounded != exact


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_listeners_see_gradients_without_the_loss_scale(monkeypatch: pytest.MonkeyPatch, max_grad_norm: float) -> None:
    order: list[str] = []
    emit = Recorder.emit

    def noting(self: Recorder, event: Event, **extra: Any) -> None:
        order.append(event.value)
        emit(self, event, **extra)

    monkeypatch.setattr(Recorder, "emit", noting)
    monkeypatch.setattr(Engine, "unscale", lambda self: order.append("unscale"))
    run(Mean(), floats(4), max_steps=1, max_grad_norm=max_grad_norm)
    assert order.count("unscale") == 1
    assert order.index("unscale") < order.index("on_pre_optimizer_step")
