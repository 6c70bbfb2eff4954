"""`trainer.accelerator` in two gloo processes, beside accelerate's own object in the same two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from hftrain import Trainer
from tests.distributed.launch import launch
from tests.trainer.tasks import Model, Points, arguments

pytestmark = pytest.mark.slow


def collect(folder: str) -> dict[str, Any]:
    """What both objects answer, as pairs."""
    from accelerate import Accelerator

    trainer = Trainer(Model(), arguments(folder), train_dataset=Points())
    ours, theirs = trainer.accelerator, Accelerator(cpu=True)
    rank = ours.process_index
    one, rows = torch.tensor(float(rank)), torch.full((2, rank + 1), rank)
    asked = {
        "gather": lambda a: a.gather({"one": one, "two": torch.tensor([rank, 7])}),
        "gather_for_metrics": lambda a: a.gather_for_metrics(torch.tensor([rank, rank])),
        "objects": lambda a: a.gather_for_metrics([f"rank {rank}", "x"]),
        "use_gather_object": lambda a: a.gather_for_metrics([torch.tensor(rank)], use_gather_object=True),
        "sum": lambda a: a.reduce(torch.tensor([rank, 2])),
        "mean": lambda a: a.reduce(one, "mean"),
        "pad": lambda a: a.pad_across_processes(rows, dim=1, pad_index=-100),
        "pad first": lambda a: a.pad_across_processes(rows, dim=1, pad_index=-100, pad_first=True),
        "state": lambda a: [a.state.process_index, a.state.num_processes, str(a.distributed_type), a.is_last_process],
        "main": lambda a: a.on_main_process(lambda: "ran")(),
    }
    answers = {name: [str(ask(ours)).replace("DistributedType.", ""), str(ask(theirs))] for name, ask in asked.items()}
    ours.wait_for_everyone()
    theirs.end_training()  # a group that accelerate has used too may abort at exit
    return answers


def test_it_answers_as_accelerate_does(tmp_path: Path) -> None:
    for rank in launch(collect, str(tmp_path)):
        for name, (ours, theirs) in rank.items():
            assert ours == theirs.replace("DistributedType.", ""), name


def fillers(folder: str) -> list[Any]:
    trainer = Trainer(Model(), arguments(folder), train_dataset=Points())
    accelerator = trainer.accelerator
    accelerator.real_rows = None if accelerator.is_main_process else (0, 2)
    rows = accelerator.gather_for_metrics({"x": torch.arange(2), "mean": torch.tensor(1.0)})
    objects = accelerator.gather_for_metrics([accelerator.process_index])
    return [rows["x"].tolist(), rows["mean"].tolist(), objects]


def test_rows_of_fillers_are_left_out_of_metrics(tmp_path: Path) -> None:
    assert launch(fillers, str(tmp_path)) == [[[0, 1], [1.0, 1.0], [0]]] * 2


class Gathering(Trainer):
    """Counts the rows that an evaluation gathers for its metrics, and what a statistic of three numbers becomes."""

    rows = 0
    statistics = 0

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        self.rows += len(self.accelerator.gather_for_metrics(inputs["y"]))
        self.statistics += len(self.accelerator.gather_for_metrics(torch.zeros(3)))
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)


def evaluate(folder: str) -> list[Any]:
    args = arguments(folder, per_device_eval_batch_size=2)
    trainer = Gathering(Model(), args, train_dataset=Points(), eval_dataset=Points(5))
    trainer.evaluate()
    return [trainer.rows, trainer.statistics, trainer.accelerator.real_rows]


def test_an_evaluation_gathers_each_sample_once(tmp_path: Path) -> None:
    assert launch(evaluate, str(tmp_path)) == [[5, 12, None]] * 2


class Own(Trainer):
    """Prepares its loader, wraps a second model that it trains, and does its own backward."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = DataLoader(self.train_dataset, batch_size=4, shuffle=True)  # type: ignore[arg-type]
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


def train(folder: str) -> dict[str, Any]:
    torch.manual_seed(0)
    trainer = Own(Model(), arguments(folder, num_train_epochs=1, logging_steps=1), train_dataset=Points(16))
    trainer.train()
    second = trainer.accelerator.prepare_model(nn.Linear(1, 1))
    frozen = trainer.accelerator.prepare_model(nn.Linear(1, 1), evaluation_mode=True)
    wrapped = trainer.accelerator.prepare(trainer.model)
    return {
        "weights": [w.tolist() for w in trainer.model.parameters()],
        "steps": trainer.state.global_step,
        "second": isinstance(second, DistributedDataParallel),
        "frozen": isinstance(frozen, DistributedDataParallel),
        "own": isinstance(wrapped, DistributedDataParallel),
        "unwrapped": trainer.accelerator.unwrap_model(wrapped) is trainer.model,
        "fetched": sorted(trainer.train_dataset.fetched),
    }


def test_a_prepared_loader_is_dealt_and_a_second_model_that_trains_is_wrapped(tmp_path: Path) -> None:
    first, second = launch(train, str(tmp_path))
    assert first["weights"] == second["weights"]
    assert (first["steps"], first["second"], first["frozen"]) == (2, True, False)
    assert (first["own"], first["unwrapped"]) == (True, True)
    assert sorted(first["fetched"] + second["fetched"]) == list(range(16))
