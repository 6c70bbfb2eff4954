"""A steady-state step reads nothing back from the device that a hand-written loop does not read too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, default_collate

from hftrain import DataModule, TaskModule, Trainer, TrainerCallback, TrainingArguments

NUM_FEATURES, BATCH_SIZE = 8, 4
READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero"}
UNDISPATCHED_READS = {"tolist", "numpy", "__array__"}  # on the CPU these copy without calling an operator


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the operators that hand a tensor's value to Python."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        if name in READS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


class UndispatchedReads(TorchFunctionMode):
    """Count the methods that do the same without an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in UNDISPATCHED_READS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


class Task(TaskModule):
    """Logs a scalar of its own, in both ways that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(NUM_FEATURES, NUM_FEATURES), nn.ReLU(), nn.Linear(NUM_FEATURES, 1))

    def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = self.net(batch["x"]) - batch["labels"]
        self.log("bias", error.detach().mean(), weight=len(error))
        return {"loss": error.square().mean(), "error": error.detach().abs().mean()}


class CountingTask(Task):
    """Weights the micro-batches by their items."""

    def count_items(self, group: Any) -> int:
        return sum(batch["labels"].numel() for batch in group)

    def training_step(self, batch: dict[str, Tensor], num_items: Tensor) -> Tensor:  # type: ignore[override]
        error: Tensor = self.net(batch["x"]) - batch["labels"]
        return error.square().sum() / num_items


class PlainModel(nn.Module):
    """What the Trainer door takes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Task().net

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.net(x) - labels).square().mean()}


class CountedModel(PlainModel):
    """Weights its loss by the count, and has logits."""

    def forward(self, x: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        logits = self.net(x)
        if labels is None:
            return {"logits": logits}
        count = kwargs.get("num_items_in_batch", labels.numel())
        return {"loss": (logits - labels).square().sum() / count, "logits": logits}


def own_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    return (outputs["logits"] - labels).square().sum() / num_items_in_batch


class Watching(TrainerCallback):
    """A callback that does nothing at the events of every step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


def samples(count: int) -> list[dict[str, Tensor]]:
    values = torch.linspace(-1, 1, count * NUM_FEATURES).view(count, NUM_FEATURES)
    return [{"x": row, "labels": row.sum().sin()[None]} for row in values]


def reads_per_step(run: Callable[[int], None]) -> Counter[str]:
    """Reads of 20 steps after the first ten: what a run's beginning and end cost cancels out."""
    counts: list[Counter[str]] = []
    for steps in (10, 30):
        with HostReads() as reads, UndispatchedReads() as others:
            run(steps)
        counts.append(reads.count + others.count)
    return counts[1] - counts[0]


def raw_loop(steps: int) -> None:
    model = PlainModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for batch in DataLoader(samples(steps * BATCH_SIZE), batch_size=BATCH_SIZE, shuffle=True):  # type: ignore[arg-type]
        model(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()


def arguments(folder: Path, steps: int, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {"logging_steps": 1000, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    settings |= {"per_device_train_batch_size": BATCH_SIZE, "max_steps": steps} | changes
    return TrainingArguments(str(folder), **settings)


def task_door(folder: Path, task: type[TaskModule] = Task, **changes: Any) -> Callable[[int], None]:
    def run(steps: int) -> None:
        data = DataModule(train=samples(2 * steps * BATCH_SIZE))
        Trainer(model=task(), args=arguments(folder, steps, **changes), datamodule=data, callbacks=[Watching()]).train()

    return run


def trainer_door(
    folder: Path, model: type[nn.Module] = PlainModel, loss: Any = None, **changes: Any
) -> Callable[[int], None]:
    def run(steps: int) -> None:
        Trainer(
            model(),
            arguments(folder, steps, **changes),
            data_collator=default_collate,
            train_dataset=samples(2 * steps * BATCH_SIZE),
            compute_loss_func=loss,
            callbacks=[Watching()],
        ).train()

    return run


def test_the_counter_sees_the_reads_that_adamw_does_on_the_cpu() -> None:
    assert sum(reads_per_step(raw_loop).values()) > 0


def test_the_counter_sees_a_read_added_to_every_step(tmp_path: Path) -> None:
    class Reading(Task):
        def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            output = super().training_step(batch)
            return {**output, "error": torch.tensor(output["error"].item())}

    added = reads_per_step(task_door(tmp_path, Reading)) - reads_per_step(raw_loop)
    assert added["aten::_local_scalar_dense"] == 20


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        (Task, {}),
        (Task, {"gradient_accumulation_steps": 2}),
        (Task, {"bf16": True}),
        (CountingTask, {}),
        (CountingTask, {"gradient_accumulation_steps": 2}),
    ],
)
def test_a_step_through_a_task_reads_no_more_than_a_raw_loop(
    tmp_path: Path, task: type[TaskModule], changes: dict[str, Any]
) -> None:
    assert reads_per_step(task_door(tmp_path, task, **changes)) - reads_per_step(raw_loop) == Counter()


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (PlainModel, {}),
        (PlainModel, {"gradient_accumulation_steps": 2}),
        (PlainModel, {"bf16": True}),
        (CountedModel, {}),
        (CountedModel, {"gradient_accumulation_steps": 2}),
        (CountedModel, {"loss": own_loss, "bf16": True}),
        (CountedModel, {"include_num_input_tokens_seen": True, "average_tokens_across_devices": True}),
    ],
)
def test_a_step_through_the_trainer_door_reads_no_more_than_a_raw_loop(
    tmp_path: Path, model: type[nn.Module], changes: dict[str, Any]
) -> None:
    assert reads_per_step(trainer_door(tmp_path, model, **changes)) - reads_per_step(raw_loop) == Counter()


def test_the_counter_sees_a_list_made_in_every_step(tmp_path: Path) -> None:
    class Listing(Task):
        def training_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            output = super().training_step(batch)
            output["loss"].tolist()
            return output

    assert (reads_per_step(task_door(tmp_path, Listing)) - reads_per_step(raw_loop))["tolist"] == 20


def test_a_logged_row_costs_one_read_for_each_of_its_columns(tmp_path: Path) -> None:
    quiet, logged = (reads_per_step(task_door(tmp_path, logging_steps=every)) for every in (1000, 10))
    columns = ("loss", "grad_norm", "bias", "error")
    assert sum((logged - quiet).values()) <= 2 * len(columns)  # 20 steps, so two more rows


@pytest.mark.parametrize("door", ["task", "trainer"])
def test_a_batch_of_an_evaluation_reads_nothing(tmp_path: Path, door: str) -> None:
    def run(batches: int) -> None:
        model = Evaluated() if door == "task" else PlainModel()
        ours = Trainer(model, arguments(tmp_path, 1), data_collator=default_collate)
        ours.evaluate(samples(batches * 8))  # type: ignore[arg-type]

    assert reads_per_step(run) == Counter()


class Evaluated(Task):
    def eval_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.training_step(batch)
