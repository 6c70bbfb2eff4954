"""A run that is stopped and gone on with is the run that was never stopped, bit for bit."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain import DataModule, Trainer, TrainerCallback, TrainingInterrupted
from tests.trainer.tasks import CountedFit, Fit, Points, trainer, weights


class Stop(TrainerCallback):
    """Sends this process a signal at the ``count``-th time of an event."""

    def __init__(self, event: str, count: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = count, number
        setattr(self, event, self.act)

    def act(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


class Noisy(Points):
    """Samples with noise from torch's own generator, as augmentation draws it."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = super().__getitem__(index)
        return {**sample, "x": sample["x"] + 0.1 * torch.randn(4)}


def run(folder: Path, *stops: TrainerCallback, task: type[Fit] = Fit, **changes: Any) -> Trainer:
    settings = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 2}
    data = DataModule(train=Noisy(), eval=Points(20, seed=1))
    return trainer(folder, task, data, callbacks=[*stops], **{**settings, **changes})


def stopped(folder: Path, stop: Stop, **changes: Any) -> TrainingInterrupted:
    with pytest.raises(TrainingInterrupted) as caught:
        run(folder, stop, **changes).train()
    return caught.value


def rows(trained: Trainer) -> list[dict[str, float]]:
    timed = ("_runtime", "_per_second", "total_flos")
    return [{k: v for k, v in row.items() if not k.endswith(timed)} for row in trained.state.log_history]


def assert_goes_on(folder: Path, stop: Stop, **changes: Any) -> None:
    whole = run(folder / "whole", **changes)
    whole.train()
    stopped(folder / "cut", stop, **changes)
    again = run(folder / "cut", **changes)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    assert rows(again)[:-1] == rows(whole)[:-1]


@pytest.mark.parametrize("task", [Fit, CountedFit])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_a_run_stopped_inside_a_step_goes_on_from_its_gradients(tmp_path: Path, task: type[Fit], count: int) -> None:
    # The first is inside the very first step, whose epoch has drawn its random numbers already.
    assert_goes_on(tmp_path, Stop("on_substep_end", count), task=task)


def test_the_stop_comes_with_the_micro_batch(tmp_path: Path) -> None:
    stopped(tmp_path, Stop("on_substep_end", 3))
    folder = tmp_path / "checkpoint-1"
    assert (folder / "grads-0.safetensors").exists()
    assert '"done": 1' in (folder / "data.json").read_text()


def test_a_committed_checkpoint_is_not_written_over_for_a_step_begun_after_it(tmp_path: Path) -> None:
    how = {"save_strategy": "steps", "save_steps": 1}
    stopped(tmp_path / "cut", Stop("on_substep_end", 4), **how)
    assert not (tmp_path / "cut/checkpoint-1/grads-0.safetensors").exists()
    assert (tmp_path / "cut/checkpoint-1/MANIFEST.json").exists()


def test_a_step_begun_with_other_batches_is_begun_anew(tmp_path: Path) -> None:
    stopped(tmp_path, Stop("on_substep_end", 4))
    again = run(tmp_path, gradient_accumulation_steps=2)
    again.train(resume_from_checkpoint=True)
    assert again.state.log_history[0]["epoch"] == (3 + 2) / 16  # the window of then, and one of now


@pytest.mark.parametrize("event", ["on_step_begin", "on_optimizer_step", "on_step_end", "on_log", "on_epoch_end"])
def test_a_run_stopped_at_an_event_goes_on(tmp_path: Path, event: str) -> None:
    assert_goes_on(tmp_path, Stop(event, 2))


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_an_evaluation_that_was_left_is_run_again(tmp_path: Path, strategy: str) -> None:
    how = {"eval_strategy": strategy, "eval_steps": 4, "save_strategy": strategy, "save_steps": 4}
    assert_goes_on(tmp_path, Stop("on_prediction_step", 2), per_device_eval_batch_size=4, **how)


class EndOfEpoch(TrainerCallback):
    """Ends the first epoch after two steps, if asked to, and notes the ends of epochs."""

    def __init__(self, *, is_early: bool = False) -> None:
        self.is_early = is_early
        self.ends: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_epoch_stop = self.is_early and state.global_step == 2

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(state.global_step)


@pytest.mark.parametrize(("is_early", "at"), [(False, 4), (False, 8), (True, 2)])
@pytest.mark.parametrize(("event", "strategy"), [("on_step_end", "epoch"), ("on_evaluate", "steps")])
def test_the_end_of_an_epoch_is_not_lost_where_its_last_step_was_stopped(
    tmp_path: Path, is_early: bool, at: int, event: str, strategy: str
) -> None:
    how = {"num_train_epochs": 2, "gradient_accumulation_steps": 4, "eval_strategy": strategy, "eval_steps": 1}
    noted = {name: EndOfEpoch(is_early=is_early) for name in ("whole", "cut")}
    whole = run(tmp_path / "whole", noted["whole"], **how)
    whole.train()
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "cut", noted["cut"], Stop(event, at), **how).train()
    again = run(tmp_path / "cut", noted["cut"], **how)
    again.train(resume_from_checkpoint=True)
    assert noted["cut"].ends == noted["whole"].ends
    assert torch.equal(weights(again.model), weights(whole.model))
    assert rows(again)[:-1] == rows(whole)[:-1]


class Predict(TrainerCallback):
    """Predicts after every third step."""

    trainer: Trainer
    done = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 3 == 0:
            self.trainer.predict(Points(20, seed=1))
            self.done += 1


def test_a_prediction_that_was_left_is_made_again(tmp_path: Path) -> None:
    counts = []
    for stops in ([Stop("on_prediction_step", 5)], []):
        predict = Predict()
        again = run(tmp_path, *stops, per_device_eval_batch_size=4)
        again.add_callback(predict)
        predict.trainer = again
        if stops:
            with pytest.raises(TrainingInterrupted):
                again.train()
        else:
            again.train(resume_from_checkpoint=True)
        counts.append(predict.done)
    assert counts == [0, 4]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_each_signal_has_its_exit_code(tmp_path: Path, name: str, code: int) -> None:
    assert stopped(tmp_path, Stop("on_step_end", 2, getattr(signal, name))).code == code
    assert (tmp_path / "checkpoint-2" / "MANIFEST.json").exists()


def test_a_second_sigint_stops_at_once(tmp_path: Path) -> None:
    twice = Stop("on_step_begin", 2, signal.SIGINT), Stop("on_pre_optimizer_step", 2, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *twice, gradient_accumulation_steps=1).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_second_sigterm_does_not_break_into_what_the_first_unwinds(tmp_path: Path) -> None:
    unwound = []

    class Told(Fit):
        def configure_optimizer(self, params: Any) -> Any:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
                unwound.append(True)

    with pytest.raises(TrainingInterrupted):
        run(tmp_path, task=Told).train()
    assert unwound


def test_handlers_are_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    stopped(tmp_path, Stop("on_step_end", 1))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        run(tmp_path, Stop("on_step_end", 2, signal.SIGUSR1)).train()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_run_in_another_thread_sets_no_handlers(tmp_path: Path) -> None:
    done = []
    thread = threading.Thread(target=lambda: done.append(run(tmp_path).train().global_step))
    thread.start()
    thread.join()
    assert done == [12]


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    assert stopped(tmp_path, Stop("on_train_begin", 1), eval_on_start=True).code == 143
    assert not list(tmp_path.glob("checkpoint-*"))


class Stream(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """Samples one after the other; a signal comes with the ``stop``-th."""

    def __init__(self, stop: int | None = None) -> None:
        self.points, self.stop = Points(), stop

    def __iter__(self) -> Any:
        for index in range(64):
            if len(self.points.fetched) == self.stop:
                signal.raise_signal(signal.SIGTERM)
            yield self.points[index]


def test_a_signal_while_data_is_skipped_stops_at_once(tmp_path: Path) -> None:
    def streaming(data: Stream, *stops: Stop) -> Trainer:
        return trainer(tmp_path, Fit, DataModule(train=data), max_steps=6, callbacks=[*stops])

    with pytest.raises(TrainingInterrupted):
        streaming(Stream(), Stop("on_step_end", 3)).train()
    data = Stream(stop=5)
    with pytest.raises(TrainingInterrupted):
        streaming(data).train(resume_from_checkpoint=True)
    assert len(data.points.fetched) == 5


def test_a_deadline_that_passes_while_data_is_skipped_stops_at_once(tmp_path: Path) -> None:
    class Slow(Stream):
        def __iter__(self) -> Any:
            for sample in super().__iter__():
                time.sleep(0.2 if wait else 0)
                yield sample

    def streaming(data: Slow, **changes: Any) -> Trainer:
        return trainer(tmp_path, Fit, DataModule(train=data), max_steps=6, **changes)

    wait, data = False, Slow()
    with pytest.raises(TrainingInterrupted):
        streaming(Slow(), callbacks=[Stop("on_step_end", 3)]).train()
    wait = True
    with pytest.raises(TrainingInterrupted) as caught:
        streaming(data, deadline_minutes=0.5 / 60).train(resume_from_checkpoint=True)
    assert caught.value.code == 75
    assert len(data.points.fetched) < 3 * 8


def test_a_deadline_has_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted) as caught:
        run(tmp_path, deadline_minutes=0).train()
    assert caught.value.code == 75


def test_save_minutes_saves_by_the_clock(tmp_path: Path) -> None:
    run(tmp_path, save_minutes=1e-9, num_train_epochs=1).train()
    assert len(list(tmp_path.glob("checkpoint-*/MANIFEST.json"))) == 6
    run(tmp_path / "none", save_minutes=1000, num_train_epochs=1).train()
    assert not list((tmp_path / "none").glob("checkpoint-*"))


def test_a_signal_after_the_last_step_is_not_lost(tmp_path: Path) -> None:
    assert stopped(tmp_path, Stop("on_train_end", 1)).code == 143
