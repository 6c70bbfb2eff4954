"""What `train` promises beside the numbers: rows, overrides of `log`, arguments that changed, old names."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from hftrain import DataModule, Trainer, TrainerCallback
from tests.trainer.tasks import Fit, Model, Points, arguments, weights
from tests.trainer.tasks import trainer as task_trainer


def plain(folder: Path, kind: type[Trainer] = Trainer, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    callbacks = changes.pop("callbacks", None)
    return kind(Model(), arguments(folder, **changes), train_dataset=Points(), callbacks=callbacks)


def test_log_may_be_overridden_with_the_row_alone(tmp_path: Path) -> None:
    class Own(Trainer):
        def log(self, logs: dict[str, float]) -> None:  # type: ignore[override]
            super().log({**logs, "own": 1.0})

    ours = plain(tmp_path, Own)
    ours.train()
    assert [row["own"] for row in ours.state.log_history] == [1.0] * len(ours.state.log_history)


def test_log_gets_the_time_at_which_training_began_with_training_rows(tmp_path: Path) -> None:
    given: list[Any] = []

    class Own(Trainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            given.append(("loss" in logs, start_time is not None))
            super().log(logs, start_time)

    plain(tmp_path, Own).train()
    assert set(given) == {(True, True), (False, False)}


def test_a_plain_modules_loss_is_rounded_in_its_rows_and_a_tasks_is_not(tmp_path: Path) -> None:
    ours, task = plain(tmp_path, logging_steps=1), task_trainer(tmp_path, logging_steps=1)
    for either in (ours, task):
        either.train()
    losses, exact = ([row["loss"] for row in one.state.log_history if "loss" in row] for one in (ours, task))
    assert losses == [round(loss, 4) for loss in losses]
    assert exact != [round(loss, 4) for loss in exact]


def test_arguments_may_change_before_each_train(tmp_path: Path) -> None:
    ours = plain(tmp_path, num_train_epochs=1)
    assert ours.train().global_step == 8
    ours.args.num_train_epochs, ours.args.gradient_accumulation_steps = 2, 2
    ours.args.learning_rate, ours.args.logging_steps = 0.5, 1
    ours.optimizer = None
    assert ours.train().global_step == 8
    rates = [row["learning_rate"] for row in ours.state.log_history if "learning_rate" in row]
    assert (rates[0], len(rates)) == (0.5, 8)


def test_arguments_that_changed_are_checked_again(tmp_path: Path) -> None:
    ours = plain(tmp_path)
    ours.args.logging_steps = 1.5
    with pytest.raises(ValueError, match="logging_steps"):
        ours.train()


def test_the_old_name_of_the_checkpoint_works_and_warns(tmp_path: Path) -> None:
    whole = plain(tmp_path, save_strategy="steps", save_steps=5)
    whole.train()
    again = plain(tmp_path, save_strategy="no")
    with pytest.warns(FutureWarning, match="resume_from_checkpoint"):
        again.train(model_path=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(again.model), weights(whole.model))


def test_an_unknown_keyword_of_train_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword arguments: resume"):
        plain(tmp_path).train(resume="x")


def test_leaving_an_epoch_in_the_middle_of_a_window_goes_on_with_the_next(tmp_path: Path) -> None:
    class Leave(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_epoch_stop = state.global_step == 1

    ours = plain(tmp_path, gradient_accumulation_steps=2, callbacks=[Leave()])
    # The first epoch is left after one step and a half; of the second one, the first window too.
    assert ours.train().global_step == 1
    assert ours.state.epoch == 0.25


def test_a_task_reports_ratios_as_steps_and_keeps_the_arguments(tmp_path: Path) -> None:
    ours = task_trainer(tmp_path, Fit, DataModule(train=Points()), logging_steps=0.3)
    ours.train()
    assert (ours.state.logging_steps, ours.args.logging_steps) == (5, 0.3)


def test_callbacks_of_the_user_come_before_the_one_that_shows_progress(tmp_path: Path) -> None:
    class Mine(TrainerCallback):
        pass

    ours = plain(tmp_path, callbacks=[Mine, Mine()], disable_tqdm=True)
    names = [type(callback).__name__ for callback in ours.callback_handler.callbacks]
    assert names == ["DefaultFlowCallback", "Mine", "Mine", "PrinterCallback"]


def test_a_callback_of_a_class_that_is_there_already_is_added_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Mine(TrainerCallback):
        pass

    plain(tmp_path, callbacks=[Mine(), Mine()])
    assert "There is a Mine among the callbacks already" in caplog.text


def test_deleting_the_trainer_frees_a_plain_module_without_the_garbage_collector(tmp_path: Path) -> None:
    ours = plain(tmp_path, save_strategy="epoch")
    ours.train()
    model = weakref.ref(ours.model)
    gc.disable()
    try:
        del ours
        assert model() is None
    finally:
        gc.enable()


def test_a_stream_that_is_used_up_ends_the_run_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Once(torch.utils.data.IterableDataset[Any]):
        samples = iter([Points()[i] for i in range(40)])

        def __iter__(self) -> Any:
            return self.samples

    ours = Trainer(Model(), arguments(tmp_path, max_steps=30), train_dataset=Once())
    assert ours.train().global_step == 5
    assert "training stops at step 5 of 30" in caplog.text
