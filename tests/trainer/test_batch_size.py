from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hftrain import DataModule, Trainer, TrainerCallback
from hftrain.errors import ConfigurationError, HardwareError
from hftrain.trainer.batch_size import smaller_batch_size
from tests.trainer.tasks import Fit, Model, Points, arguments, trainer, weights

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Large(Fit):
    """Runs out of memory above ``most`` samples a batch, from its ``first`` call on; keeps what it trained on."""

    def __init__(self, most: int = 4, first: int = 1, error: str = "OutOfMemoryError") -> None:
        torch.manual_seed(0)
        super().__init__(dropout=0.0)
        self.most, self.first, self.calls, self.trained, self.error = most, first, 0, [], error

    def training_step(self, batch: dict[str, Tensor]) -> Any:
        self.calls += 1
        self.log("size", float(len(batch["x"])))
        if self.calls >= self.first and len(batch["x"]) > self.most:
            if self.error == "OutOfMemoryError":
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            torch.empty(2**60, dtype=torch.uint8)  # the host's allocator raises
        self.trained.append(batch["y"].tolist())
        return super().training_step(batch)


def order(epoch: int, num_samples: int = 64) -> list[float]:
    """The targets of an epoch in the order in which they are trained on."""
    indices = torch.randperm(num_samples, generator=torch.Generator().manual_seed(42 + epoch))
    return Points(num_samples).y[indices].tolist()


def find(folder: Path, task: Any, **changes: Any) -> Trainer:
    ours = trainer(folder, task, DataModule(train=Points(), eval=Points(20)), auto_find_batch_size=True, **changes)
    ours.train()
    return ours


# ---- what the run becomes ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["OutOfMemoryError", "of the host"])
def test_a_run_that_does_not_fit_becomes_the_run_of_the_size_that_does(tmp_path: Path, error: str) -> None:
    found = find(tmp_path, Large(most=2, error=error))
    asked = trainer(tmp_path, Large(), per_device_train_batch_size=2)
    asked.train()
    assert (found._train_batch_size, found.state.train_batch_size, found.state.max_steps) == (2, 2, 64)
    assert torch.equal(weights(found.model), weights(asked.model))
    rows = [[{k: v for k, v in row.items() if "_per_" not in k and "runtime" not in k} for row in one.state.log_history]
            for one in (found, asked)]  # fmt: skip
    assert rows[0] == rows[1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_each_sample_is_trained_on_once_an_epoch_wherever_memory_ran_out(tmp_path: Path, accumulation: int) -> None:
    task = Large(first=6)
    found = find(tmp_path, task, gradient_accumulation_steps=accumulation)
    in_epochs = [*order(0), *order(1)]
    trained = [sample for batch in task.trained for sample in batch]
    if accumulation == 2:  # the first batch of the step that did not fit is trained on again
        assert trained[32:40] == trained[40:44] + trained[44:48]
        del trained[32:40]
    assert trained == in_epochs
    assert found.state.epoch == 2.0


def test_the_run_goes_on_as_if_it_were_resumed_with_the_smaller_size(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optim": "adamw_torch", "lr_scheduler_type": "cosine", "warmup_steps": 3}
    found = find(tmp_path / "a", Large(first=6), **settings)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = control.should_training_stop = state.global_step == 5

    data = DataModule(train=Points())
    trainer(tmp_path / "b", Large(most=8), data, callbacks=[Stop()], save_strategy="steps", **settings).train()
    resumed = trainer(tmp_path / "b", Large(), data, per_device_train_batch_size=4, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert found.state.global_step == resumed.state.global_step == 5 + 6 + 16
    assert torch.equal(weights(found.model), weights(resumed.model))


def test_only_what_fits_is_in_the_rows(tmp_path: Path) -> None:
    found = find(tmp_path, Large(first=2), gradient_accumulation_steps=2, logging_steps=1)
    assert {row["size"] for row in found.state.log_history if "size" in row} == {4.0}


def test_a_plain_module_is_fitted_too_and_its_tokens_are_counted_once(tmp_path: Path) -> None:
    class LargeModel(Model):
        main_input_name = "x"

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            if len(x) > 2:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return super().forward(x, y)

    changes = {"auto_find_batch_size": True, "include_num_input_tokens_seen": True}
    ours = Trainer(model=LargeModel(), args=arguments(tmp_path, label_names=["y"], **changes), train_dataset=Points())
    ours.train()
    assert (ours._train_batch_size, ours.state.num_input_tokens_seen) == (2, 2 * 64 * 4)


@pytest.mark.parametrize("ignores", [True, False])
def test_whether_the_model_ignores_the_count_is_looked_at_with_batches_that_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ignores: bool
) -> None:
    class Counted(Model):
        accepts_loss_kwargs = True

        def forward(self, x: Tensor, labels: Tensor, num_items_in_batch: Any = None) -> dict[str, Tensor]:
            if len(x) > 4:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            loss = functional.mse_loss(self.net(x).squeeze(1), labels, reduction="sum")
            return {"loss": loss / (8 if ignores else num_items_in_batch)}

    data = [{"x": sample["x"], "labels": sample["y"]} for sample in Points()]  # type: ignore[attr-defined]
    settings = arguments(tmp_path, auto_find_batch_size=True, auto_batch_keep_global=True, max_steps=2)
    with caplog.at_level(logging.WARNING, "hftrain"):
        ours = Trainer(model=Counted(), args=settings, train_dataset=data)
        ours.train()
    assert ours._train_batch_size == 4
    assert ("its loss does not depend on it" in caplog.text) is ignores


# ---- the global batch -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "accumulation", "fits"), [(8, 1, 2), (8, 3, 2), (15, 1, 5)])
def test_the_global_batch_is_kept_by_more_accumulation(tmp_path: Path, size: int, accumulation: int, fits: int) -> None:
    settings: dict[str, Any] = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    seen: list[int] = []

    class Note(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(args.gradient_accumulation_steps)

    found = find(tmp_path, Large(most=fits), auto_batch_keep_global=True, callbacks=[Note()], **settings)
    whole = trainer(tmp_path, Large(most=size), **settings)
    whole.train()
    assert found._train_batch_size == fits
    assert set(seen) == {size * accumulation // fits}
    assert found.args.gradient_accumulation_steps == accumulation
    assert found.state.global_step == whole.state.global_step
    assert torch.allclose(weights(found.model), weights(whole.model), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (8, {}, 4),
        (7, {}, 3),
        (1, {}, 0),
        (8, {"divides": 8}, 4),
        (15, {"divides": 15}, 5),
        (7, {"divides": 7}, 1),
        (7, {"divides": 14}, 2),
        (12, {"multiple_of": 4}, 4),
        (8, {"multiple_of": 4}, 4),
        (4, {"multiple_of": 4}, 0),
    ],
)
def test_the_next_smaller_size(size: int, options: dict[str, int], expected: int) -> None:
    assert smaller_batch_size(size, **options) == expected


# ---- resuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "keeps", "expected"), [({}, False, (4, 1)), ({}, True, (4, 2)), ({"size": 2}, False, (2, 1))]
)
def test_a_resumed_run_starts_with_the_size_that_was_found(
    tmp_path: Path, asked: dict[str, int], keeps: bool, expected: tuple[int, int]
) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "auto_batch_keep_global": keeps}
    find(tmp_path, Large(), max_steps=4, **settings)
    task = Large(most=8)
    resumed = trainer(
        tmp_path, task, DataModule(train=Points()), auto_find_batch_size=True, max_steps=6,
        per_device_train_batch_size=asked.get("size", 8), **settings,
    )  # fmt: skip
    resumed.train(resume_from_checkpoint=True)
    size, accumulation = expected
    assert [len(batch) for batch in task.trained] == [size] * 2 * accumulation
    assert resumed._train_batch_size == size


def test_each_train_begins_with_the_size_that_is_asked_for(tmp_path: Path) -> None:
    found = find(tmp_path, Large())
    found.model.most = 8
    found.train()
    assert found._train_batch_size == 8


# ---- other loaders ----------------------------------------------------------------------------------


class OwnLoader(Trainer):
    reads_the_size = True

    def get_train_dataloader(self) -> Any:
        size = self._train_batch_size if self.reads_the_size else 8
        return torch.utils.data.DataLoader(Points(), batch_size=size)


def test_an_own_loader_that_reads_the_size_goes_on_where_it_was(tmp_path: Path) -> None:
    task = Large(first=4)
    ours = OwnLoader(model=task, args=arguments(tmp_path, auto_find_batch_size=True, num_train_epochs=1))
    ours.train()
    assert [sample for batch in task.trained for sample in batch] == Points().y.tolist()


def test_an_own_loader_that_does_not_is_told_to(tmp_path: Path) -> None:
    ours = OwnLoader(model=Large(), args=arguments(tmp_path, auto_find_batch_size=True))
    ours.reads_the_size = False
    with pytest.raises(ConfigurationError, match="asks for batches of 4 samples now.*read self._train_batch_size"):
        ours.train()


def test_an_order_drawn_from_the_default_generator_is_gone_on_with(tmp_path: Path) -> None:
    class Drawing(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return Shuffle(range(64))

    class Shuffle(torch.utils.data.RandomSampler):
        """Not torch's own class, whose order is replaced by a seeded one."""

    task = Large(first=4)
    settings = arguments(tmp_path, auto_find_batch_size=True, num_train_epochs=1)
    Drawing(model=task, args=settings, datamodule=DataModule(train=Points())).train()
    assert sorted(sample for batch in task.trained for sample in batch) == sorted(Points().y.tolist())


def test_an_iterable_data_set_is_gone_on_with(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Any:
            return iter(Points())

    task = Large(first=4)
    trainer(tmp_path, task, DataModule(train=Stream()), auto_find_batch_size=True, max_steps=11).train()
    assert [sample for batch in task.trained for sample in batch] == Points().y.tolist()[: 3 * 8 + 8 * 4]


# ---- what ends the run ------------------------------------------------------------------------------


def test_a_batch_of_one_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        HardwareError, match=r"No executable batch size found.*batches of 1,.*Tried to allocate 2.00 GiB"
    ):
        find(tmp_path, Large(most=0))


def test_without_the_argument_the_error_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        trainer(tmp_path, Large()).train()


def test_another_error_ends_the_run_as_it_is(tmp_path: Path) -> None:
    class Wrong(Fit):
        def training_step(self, batch: Any) -> Any:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        find(tmp_path, Wrong())


@pytest.mark.parametrize("where", ["evaluation", "optimizer"])
def test_memory_that_runs_out_elsewhere_ends_the_run(tmp_path: Path, where: str) -> None:
    class Elsewhere(Fit):
        def eval_step(self, batch: Any) -> Any:
            raise torch.OutOfMemoryError(where)

        def configure_optimizer(self, params: Any) -> Any:
            class Hungry(torch.optim.SGD):
                def step(self, closure: Any = None) -> Any:
                    if where == "optimizer":
                        raise torch.OutOfMemoryError(where)
                    return super().step(closure)

            return Hungry(params, lr=0.1)

    with pytest.raises(torch.OutOfMemoryError, match=where):
        find(tmp_path, Elsewhere(), eval_strategy="epoch", max_steps=2)


# ---- on the way -------------------------------------------------------------------------------------


def test_workers_of_the_larger_batches_have_ended_when_those_of_the_smaller_begin(tmp_path: Path) -> None:
    workers: list[int] = []

    class Look(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            workers.append(len(torch.multiprocessing.active_children()))

    settings: dict[str, Any] = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    find(tmp_path, Large(first=2), callbacks=[Look()], max_steps=4, **settings)
    assert workers == [1, 1, 1, 1]


def test_the_memory_of_the_step_that_did_not_fit_is_free_for_the_next(tmp_path: Path) -> None:
    class Held(Fit):
        activations: weakref.ref[Tensor] | None = None

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            assert self.activations is None or self.activations() is None
            hidden = self.net[0](batch["x"])
            if len(hidden) > 2:
                self.activations = weakref.ref(hidden)
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return functional.mse_loss(self.net(batch["x"]).squeeze(1), batch["y"])

    assert find(tmp_path, Held())._train_batch_size == 2


def test_steps_and_loader_that_listeners_see_are_those_of_the_new_size(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append((state.max_steps, state.save_steps, len(kwargs["train_dataloader"])))

    find(tmp_path, Large(first=3), callbacks=[Look()], save_steps=0.5)
    assert (seen[0], seen[-1]) == ((16, 8, 8), (30, 15, 16))


def test_a_line_says_what_the_run_goes_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hftrain"):
        find(tmp_path, Large(first=3))
    assert caplog.messages == [
        "Out of memory in step 3 with 8 samples a batch: going on with 4, 1 batches a step, 30 steps in all."
    ]


def test_a_schedule_that_was_given_keeps_its_length(tmp_path: Path) -> None:
    from hftrain import get_scheduler

    torch.manual_seed(0)
    task = Large(first=3)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=100)
    settings = arguments(tmp_path, auto_find_batch_size=True)
    Trainer(task, settings, datamodule=DataModule(train=Points()), optimizers=(optimizer, schedule)).train()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 - 30 / 100))


def test_the_model_is_freed_with_the_trainer(tmp_path: Path) -> None:
    ours = find(tmp_path, Large())
    model = weakref.ref(ours.model)
    del ours
    assert model() is None
