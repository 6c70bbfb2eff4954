"""A run that goes on with the same batches ends bit for bit as the uninterrupted one, whatever reads its data."""

from __future__ import annotations

import json
import logging
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, get_worker_info

from hftrain import DataModule, Trainer, TrainerCallback, TrainingInterrupted
from hftrain.errors import TornCheckpointError
from tests.checkpoint.hostile import exchange
from tests.trainer.tasks import CountedFit, Fit, Points, trainer, weights

SIZE = 40


class Stop(TrainerCallback):
    """Sends this process a signal at the ``count``-th time of an event."""

    def __init__(self, event: str, count: int) -> None:
        self.left = count
        setattr(self, event, self.act)

    def act(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


STOPS = {
    "in the first step": ("on_substep_end", 1),
    "behind the first step": ("on_step_end", 1),
    "in a later step": ("on_substep_end", 5),
    "behind a later step": ("on_step_end", 4),
    "in the second epoch": ("on_substep_end", 9),
    "behind an epoch": ("on_epoch_end", 1),
}


class Noisy(Points):
    """Augments with all three generators."""

    def __init__(self) -> None:
        super().__init__(SIZE)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = super().__getitem__(index)
        noise = torch.rand(()) + np.random.rand() + random.random()
        return {**sample, "x": sample["x"] + 0.3 * noise.float(), "length": torch.zeros(1 + index % 7)}


def collated(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in ("x", "y")}


class Shuffled(Sampler[int]):
    """An order from Python's own generator."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(SIZE), SIZE))


class OtherSampler(Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return Shuffled()


class OtherLoader(Trainer):
    def get_train_dataloader(self) -> Any:
        return loader(shuffle=True)


def loader(**how: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=4, collate_fn=collated, **how)


def seeded(**how: Any) -> DataLoader[Any]:
    return loader(shuffle=True, generator=torch.Generator().manual_seed(5), **how)


DATA: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "a data set": (Noisy, {}),
    "a data set with workers": (Noisy, {"dataloader_num_workers": 2}),
    "persistent workers": (Noisy, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}),
    "groups of one length": (Noisy, {"group_by_length": True, "length_column_name": None}),
    "torch's order": (Noisy, {"accelerator_config": {"use_seedable_sampler": False}}),
    "a sampler of the user": (Noisy, {"cls": OtherSampler}),
    "a loader of the user": (Noisy, {"cls": OtherLoader}),
    "a shuffled loader": (lambda: loader(shuffle=True), {}),
    "a shuffled loader with workers": (lambda: loader(shuffle=True, num_workers=2), {}),
    "a loader with a generator": (seeded, {}),
    "a loader with a generator and workers": (lambda: seeded(num_workers=1), {}),
    "a loader with a sampler of the user": (lambda: loader(sampler=Shuffled()), {}),
    "a loader that draws with replacement": (
        lambda: loader(sampler=RandomSampler(range(SIZE), replacement=True)),
        {},
    ),
}


def run(folder: Path, kind: str, *stops: Stop, task: type[Fit] = Fit, **more: Any) -> Trainer:
    make, how = DATA[kind]
    settings = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 2, **how, **more}
    cls = settings.pop("cls", Trainer)
    data = DataModule(train=make(), collate_fn=collated)
    made = trainer(folder, task, data, callbacks=[*stops], **settings)
    made.__class__ = cls
    if settings.get("group_by_length"):
        made.processing_class = type("Tokens", (), {"model_input_names": ["length"]})()
    return made


def assert_goes_on(tmp_path: Path, kind: str, stop: str, **more: Any) -> Trainer:
    whole = run(tmp_path / "whole", kind, **more)
    whole.train()
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "cut", kind, Stop(*STOPS[stop]), **more).train()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(999)  # nothing may depend on what the new process happens to have
    again = run(tmp_path / "cut", kind, **more)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    return again


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("kind", [kind for kind in DATA if "workers" not in kind])
def test_weights_are_bitwise_equal(tmp_path: Path, kind: str, stop: str) -> None:
    assert_goes_on(tmp_path, kind, stop)


@pytest.mark.parametrize("stop", ["in the first step", "in a later step", "behind an epoch"])
@pytest.mark.parametrize("kind", [kind for kind in DATA if "workers" in kind])
def test_weights_are_bitwise_equal_with_workers(tmp_path: Path, kind: str, stop: str) -> None:
    assert_goes_on(tmp_path, kind, stop)


@pytest.mark.parametrize("stop", ["in the first step", "in a later step"])
@pytest.mark.parametrize("kind", ["a data set", "groups of one length", "a shuffled loader", "a sampler of the user"])
def test_weights_are_bitwise_equal_where_items_are_counted(tmp_path: Path, kind: str, stop: str) -> None:
    assert_goes_on(tmp_path, kind, stop, task=CountedFit)


# ---- iterable data sets --------------------------------------------------------------------------------


class Stream(IterableDataset[dict[str, Tensor]]):
    """Reads the samples in the order of the epoch, augmented; ``read`` says which were made."""

    def __init__(self) -> None:
        self.points, self.epoch, self.read = Noisy(), 0, list[int]()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def first(self) -> int:
        return 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        worker = get_worker_info()
        share, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
        for place in range(self.first(), SIZE):
            if place % share == number:
                self.read.append(place)
                self.moved(place + 1)
                yield self.points[order[place]]

    def moved(self, place: int) -> None:
        """Hear where the next sample is."""


class Stateful(Stream):
    """Says where it is, and can be told."""

    place = start = 0

    def first(self) -> int:
        self.place, self.start = self.start, 0
        return self.place

    def moved(self, place: int) -> None:
        self.place = place

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["place"]


def streaming(folder: Path, data: Stream, *stops: TrainerCallback, **changes: Any) -> Trainer:
    settings = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "max_steps": 7, **changes}
    task = settings.pop("task", Fit)
    return trainer(folder, task, DataModule(train=data, collate_fn=collated), callbacks=[*stops], **settings)


@pytest.mark.parametrize("task", [Fit, CountedFit])
@pytest.mark.parametrize("stop", STOPS)
def test_a_data_set_with_a_state_of_its_own_goes_on_from_it(
    tmp_path: Path, stop: str, task: type[Fit], caplog: pytest.LogCaptureFixture
) -> None:
    whole = streaming(tmp_path / "whole", Stateful(), task=task)
    whole.train()
    cut = Stateful()
    with pytest.raises(TrainingInterrupted):
        streaming(tmp_path / "cut", cut, Stop(*STOPS[stop]), task=task).train()
    data = Stateful()
    again = streaming(tmp_path / "cut", data, task=task)
    with caplog.at_level(logging.INFO, "hftrain"):
        again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    assert len(cut.read) + len(data.read) <= 2 * SIZE + 2 * 12  # no sample behind the open step is read twice
    if "first step" not in stop and "epoch" not in stop:
        assert "Stateful goes on from its own state" in caplog.text


@pytest.mark.parametrize("stop", ["in a later step", "behind a later step", "in the second epoch"])
@pytest.mark.parametrize("how", [{}, {"dataloader_num_workers": 2}])
def test_a_data_set_without_a_state_is_read_again_and_the_log_says_how_long(
    tmp_path: Path, stop: str, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    whole = streaming(tmp_path / "whole", Stream(), **how)
    whole.train()
    with pytest.raises(TrainingInterrupted):
        streaming(tmp_path / "cut", Stream(), Stop(*STOPS[stop]), **how).train()
    torch.manual_seed(999)
    again = streaming(tmp_path / "cut", Stream(), **how)
    with caplog.at_level(logging.INFO, "hftrain"):
        again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    assert "Read and dropped samples of Stream for" in caplog.text
    assert "Loaded and dropped" not in caplog.text


@pytest.mark.parametrize("content", [{}, {"is_inside": True}, [1]])
def test_a_place_that_is_none_is_torn(tmp_path: Path, content: Any) -> None:
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, "a shuffled loader", Stop("on_step_end", 1)).train()
    exchange(tmp_path / "checkpoint-1", "loader-0.json", json.dumps(content).encode())
    with pytest.raises(TornCheckpointError, match="place of rank 0's loader"):
        run(tmp_path, "a shuffled loader").train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
