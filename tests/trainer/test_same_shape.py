"""A run that goes on with the same batches ends bit for bit as the uninterrupted one, whatever reads its data."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Sampler

from hftrain import DataModule, Trainer, TrainerCallback, TrainingInterrupted
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
