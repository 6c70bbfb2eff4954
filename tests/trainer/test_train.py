from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain import DataModule, TaskModule, Trainer, TrainerCallback
from hftrain.errors import CallbackError, ConfigurationError, DataError, TaskError
from tests.trainer.tasks import CountedFit, Fit, Model, Points, arguments, trainer, weights


def raw_loop(task: TaskModule, data: Points, *, epochs: int, batch: int, accumulation: int, clip: float) -> Tensor:
    """What a Trainer with AdamW and a linear schedule should do, written by hand, samples in the seeded order."""
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01, weight_decay=0.0)
    steps_per_epoch = -(-len(data) // (batch * accumulation))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (epochs * steps_per_epoch))
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(42 + epoch))
        for window in order.split(batch * accumulation):
            micro = window.split(batch)
            for indices in micro:
                loss = task.training_step({"x": data.x[indices], "y": data.y[indices]}) / len(micro)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return weights(task)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_training_equals_a_loop_written_by_hand(tmp_path: Path, accumulation: int) -> None:
    torch.manual_seed(0)
    by_hand = Fit(dropout=0.0)
    ours = trainer(tmp_path, Fit(dropout=0.0), DataModule(train=Points(60)), gradient_accumulation_steps=accumulation)
    ours.model.load_state_dict(by_hand.state_dict())
    ours.train()
    expected = raw_loop(by_hand, Points(60), epochs=2, batch=8, accumulation=accumulation, clip=1.0)
    assert torch.allclose(weights(ours.model), expected, atol=1e-6)


def test_counting_items_weights_samples_equally_in_a_ragged_step(tmp_path: Path) -> None:
    data = Points(20)  # batches of 8, 8 and 4, one step
    whole, counted = Fit(dropout=0.0), CountedFit(dropout=0.0)
    counted.load_state_dict(whole.state_dict())
    options: dict[str, Any] = {"num_train_epochs": 1, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0}
    one = trainer(tmp_path, whole, DataModule(train=data), per_device_train_batch_size=20, **options)
    many = trainer(tmp_path, counted, DataModule(train=data), gradient_accumulation_steps=3, **options)
    assert many.train().training_loss == pytest.approx(one.train().training_loss, rel=1e-6)
    assert torch.allclose(weights(many.model), weights(one.model), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "steps", "epoch", "epochs"),
    [
        ({"num_train_epochs": 1.5}, 12, 1.5, 2),
        ({"num_train_epochs": 1.3}, 11, 1.375, 2),
        ({"max_steps": 10}, 10, 1.25, 2),
        ({"num_train_epochs": 2, "gradient_accumulation_steps": 20}, 2, 2.0, 2),
        ({"num_train_epochs": 1, "gradient_accumulation_steps": 3}, 3, 1.0, 1),
    ],
)
def test_steps_and_epochs_are_the_references(
    tmp_path: Path, changes: dict[str, Any], steps: int, epoch: float, epochs: int
) -> None:
    ours = trainer(tmp_path, **changes)
    ours.train()
    assert (ours.state.global_step, ours.state.epoch, ours.state.num_train_epochs) == (steps, epoch, epochs)


def test_rows_have_the_documented_keys(tmp_path: Path) -> None:
    ours = trainer(tmp_path, eval_strategy="epoch", logging_steps=8)
    ours.train()
    train, evaluation, last = ours.state.log_history[0], ours.state.log_history[1], ours.state.log_history[-1]
    assert list(train) == ["loss", "grad_norm", "learning_rate", "epoch", "step"]
    assert list(evaluation) == [
        "eval_loss",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "epoch",
        "step",
    ]
    assert list(last) == [
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
        "train_loss",
        "epoch",
        "step",
    ]


def test_scalars_of_the_task_share_the_rows(tmp_path: Path) -> None:
    class Logging(Fit):
        def training_step(self, batch: dict[str, Tensor]) -> Any:
            self.log("largest", batch["x"].max())
            return {"loss": super().training_step(batch), "two": torch.tensor(2.0)}

        def eval_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
            self.log("ones", 1.0, weight=len(batch["x"]))
            return super().eval_step(batch)

    ours = trainer(tmp_path, Logging(), eval_strategy="epoch", num_train_epochs=1)
    ours.train()
    first = ours.state.log_history[0]
    assert first["two"] == 2.0
    assert first["largest"] > 0
    assert ours.evaluate()["eval_ones"] == 1.0


def test_an_iterable_without_length_trains_for_max_steps(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Any:
            return iter([Points()[i] for i in range(20)])

    ours = trainer(tmp_path, data=DataModule(train=Stream()), max_steps=7, gradient_accumulation_steps=2)
    ours.train()
    assert ours.state.global_step == 7


def test_a_callback_stops_training(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    ours = trainer(tmp_path, callbacks=[Stop()])
    assert ours.train().global_step == 3


def test_an_epoch_can_be_stopped_alone(tmp_path: Path) -> None:
    class Skip(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_epoch_stop = state.epoch < 1 and state.global_step == 3

    ours = trainer(tmp_path, callbacks=[Skip()])
    assert ours.train().global_step == 3 + 8


def test_eval_on_start_comes_before_the_first_step(tmp_path: Path) -> None:
    ours = trainer(tmp_path, eval_on_start=True, eval_strategy="epoch", num_train_epochs=1)
    ours.train()
    assert "eval_loss" in ours.state.log_history[0]
    assert ours.state.log_history[0]["step"] == 0


def test_a_plateau_schedule_steps_on_the_metric(tmp_path: Path) -> None:
    ours = trainer(
        tmp_path,
        eval_strategy="epoch",
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "threshold": 1e9, "threshold_mode": "abs"},
        num_train_epochs=3,
    )
    ours.train()
    assert ours.get_learning_rates()[0] == pytest.approx(0.01 * 0.1**2)


def test_a_task_configures_its_optimizer_and_schedule(tmp_path: Path) -> None:
    class Own(Fit):
        def configure_optimizer(self, params: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(params, lr=0.5)

        def configure_scheduler(self, optimizer: Any, num_steps: int) -> Any:
            return torch.optim.lr_scheduler.StepLR(optimizer, num_steps // 2)

    ours = trainer(tmp_path, Own())
    ours.train()
    assert isinstance(ours.optimizer, torch.optim.SGD)
    assert ours.get_learning_rates() == [pytest.approx(0.005)]


def test_a_plain_module_trains_through_training_step_and_compute_loss(tmp_path: Path) -> None:
    calls = []

    class Own(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            calls.append(sorted(inputs))
            return super().compute_loss(model, inputs, return_outputs, **kwargs)

    ours = Own(model=Model(), args=arguments(tmp_path), train_dataset=Points())
    losses = [row["loss"] for row in ours.state.log_history if "loss" in row]
    ours.train()
    losses = [row["loss"] for row in ours.state.log_history if "loss" in row]
    assert calls == [["x", "y"]] * 16
    assert losses[-1] < losses[0]


def test_a_second_call_starts_afresh(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.train()
    assert ours.train().global_step == 16


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (DataModule(train=[]), DataError, "empty|no samples"),
        (DataModule(eval=Points()), DataError, r"Pass DataModule\(train=...\)"),
        (DataModule(train=[1.0, 2.0]), TaskError, "failed on the first batch, which is float64"),
    ],
)
def test_bad_data_is_a_clear_error(tmp_path: Path, data: DataModule, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trainer(tmp_path, data=data).train()


def test_a_stream_without_max_steps_says_what_to_set(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Any:
            return iter(range(20))

    with pytest.raises(ConfigurationError, match="Set max_steps to a positive number"):
        trainer(tmp_path, data=DataModule(train=Stream())).train()


def test_two_sources_of_data_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Both datamodule and train_dataset were given"):
        Trainer(Fit(), arguments(tmp_path), train_dataset=Points(), datamodule=DataModule(train=Points()))


def test_evaluation_without_data_fails_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs data to evaluate on"):
        trainer(tmp_path, data=DataModule(train=Points()), eval_strategy="epoch").train()


def test_a_metric_that_evaluation_does_not_produce_lists_what_it_does(tmp_path: Path) -> None:
    ours = trainer(tmp_path, eval_strategy="epoch", metric_for_best_model="accuracy")
    with pytest.raises(ConfigurationError, match="'eval_accuracy', and the evaluation produced .*eval_loss"):
        ours.train()


def test_a_folder_that_cannot_be_written_fails_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    data = Points()
    with pytest.raises(ConfigurationError, match="output_dir"):
        trainer(tmp_path / "file" / "run", data=DataModule(train=data)).train()
    assert data.fetched == []


def test_an_exception_in_a_callback_names_it_and_the_event(tmp_path: Path) -> None:
    class Broken(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyError("oops")

    with pytest.raises(CallbackError, match=r"Broken.on_step_end raised KeyError"):
        trainer(tmp_path, callbacks=[Broken()]).train()


def test_model_init_makes_a_new_model_for_every_call(tmp_path: Path) -> None:
    ours = Trainer(args=arguments(tmp_path), model_init=Fit, datamodule=DataModule(train=Points()))
    first = ours.train()
    model = ours.model
    assert ours.train().training_loss == first.training_loss
    assert ours.model is not model


def test_gradients_left_by_a_failed_run_do_not_reach_the_next(tmp_path: Path) -> None:
    class Fails(Fit):
        fails = True

        def training_step(self, batch: dict[str, Tensor]) -> Any:
            if self.fails and any(p.grad is not None for p in self.parameters()):
                raise KeyboardInterrupt
            return super().training_step(batch)

    clean, ours = trainer(tmp_path, Fails), trainer(tmp_path, Fails, gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt):
        ours.train()
    assert any(p.grad is not None for p in ours.model.parameters())
    for either in (clean, ours):
        either.args.gradient_accumulation_steps = 1
        either.model.fails = False  # type: ignore[assignment]
        torch.manual_seed(1)
        either.train()
    assert torch.equal(weights(ours.model), weights(clean.model))


def test_a_first_nan_does_not_poison_the_training_loss(tmp_path: Path) -> None:
    class Nan(Fit):
        steps = 0

        def training_step(self, batch: dict[str, Tensor]) -> Any:
            self.steps += 1
            return super().training_step(batch) * (float("nan") if self.steps == 3 else 1.0)

    ours = trainer(tmp_path, Nan, logging_steps=1, learning_rate=0.0, optim="sgd")
    assert ours.train().training_loss > 0


def test_counting_nothing_averages_the_micro_batches(tmp_path: Path) -> None:
    class Nothing(CountedFit):
        def training_step(self, batch: dict[str, Tensor], num_items: Any = None) -> Any:
            return Fit.training_step(self, batch)

        def count_items(self, group: Any) -> Any:
            return None

    ends = []
    for task in (Nothing, Fit):
        ours = trainer(tmp_path, task, gradient_accumulation_steps=4)
        ends.append((ours.train().training_loss, weights(ours.model).tolist()))
    assert ends[0] == ends[1]


def test_counting_now_and_then_is_an_error(tmp_path: Path) -> None:
    class Sometimes(CountedFit):
        calls = 0

        def count_items(self, group: Any) -> Any:
            self.calls += 1
            return super().count_items(group) if self.calls == 1 else None

    with pytest.raises(TaskError, match="count_items returned None for some steps"):
        trainer(tmp_path, Sometimes).train()


def test_the_evaluation_before_the_first_step_is_never_the_best(tmp_path: Path) -> None:
    ours = trainer(
        tmp_path,
        eval_on_start=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        learning_rate=10.0,
    )
    ours.train()
    assert ours.state.best_global_step in (8, 16)
    assert ours.state.best_model_checkpoint is not None


def test_a_name_that_every_row_has_cannot_be_logged(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="every row has its own 'loss'"):
        Fit().log("loss", 1.0)


def test_a_plain_module_is_evaluated_in_training(tmp_path: Path) -> None:
    args = arguments(tmp_path, eval_strategy="epoch", label_names=["y"])
    ours = Trainer(Model(), args, train_dataset=Points(), eval_dataset=Points(20, seed=1))
    ours.train()
    losses = [row["eval_loss"] for row in ours.state.log_history if "eval_loss" in row]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_deleting_the_trainer_frees_the_model_in_a_fresh_process(tmp_path: Path) -> None:
    script = (
        "import gc, sys, weakref\n"
        "from tests.trainer.tasks import trainer\n"
        "gc.disable()\n"
        "ours = trainer(sys.argv[1], eval_strategy='epoch', save_strategy='epoch')\n"
        "ours.train()\n"
        "model = weakref.ref(ours.model)\n"
        "del ours\n"
        "sys.exit(model() is not None)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
