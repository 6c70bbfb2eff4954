"""Two processes read what accelerate's two processes read, and draw the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from zlib import crc32

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from tests.distributed.launch import launch

pytestmark = pytest.mark.slow

KEYS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "drop_last")
PLANS: list[dict[str, Any]] = [
    {},
    {"use_seedable_sampler": False},
    {"split_batches": True},
    {"split_batches": True, "use_seedable_sampler": False, "drop_last": True},
    {"even_batches": False},
    {"drop_last": True},
    {"dispatch_batches": True},
    {"dispatch_batches": True, "split_batches": True, "drop_last": True},
    {"dispatch_batches": True, "use_seedable_sampler": False},
    {"kind": "stream"},
    {"kind": "stream", "drop_last": True},
    {"kind": "stream", "split_batches": True},
    {"kind": "stream", "dispatch_batches": False},
    {"kind": "stream", "dispatch_batches": False, "split_batches": True, "drop_last": True},
    {"kind": "grouped"},
    {"kind": "grouped", "use_seedable_sampler": False},
    {"kind": "weighted"},
    {"kind": "repeating"},
]
SIZES = (8, 13, 16, 18)


class Numbers(Dataset[Tensor]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index])


class Stream(IterableDataset[Tensor]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor([index]) for index in range(self.size))


def sampler_of(kind: str, data: Any, grouped: Any) -> Any:
    if kind == "grouped":
        return grouped(4, lengths=[index % 5 + 1 for index in range(len(data))])
    if kind == "weighted":
        return WeightedRandomSampler(torch.ones(len(data)), len(data))
    return RandomSampler(data, replacement=True) if kind == "repeating" else RandomSampler(data)


def of_accelerate(size: int, plan: dict[str, Any]) -> DataLoader[Any]:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration
    from transformers.trainer_pt_utils import LengthGroupedSampler

    how = {key: plan[key] for key in KEYS[:4] if key in plan}
    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(**{"use_seedable_sampler": True} | how)
    )
    kind, rest = plan.get("kind", "numbers"), {"batch_size": 4, "drop_last": plan.get("drop_last", False)}
    if kind == "stream":
        return accelerator.prepare(DataLoader(Stream(size), **rest))  # type: ignore[no-any-return]
    data = Numbers(size)
    sampler = sampler_of(kind, data, LengthGroupedSampler)
    return accelerator.prepare(DataLoader(data, sampler=sampler, **rest))  # type: ignore[no-any-return]


def of_ours(size: int, plan: dict[str, Any], engine: Any) -> DataLoader[Any]:
    from hftrain.data.lengths import LengthGroupedSampler
    from hftrain.data.loaders import train_loader
    from hftrain.data.settings import LoaderSettings

    how = LoaderSettings(
        batch_size=4,
        seed=7,
        process_index=engine.process_index,
        world_size=engine.world_size,
        exchange=engine,
        **{key: plan[key] for key in KEYS if key in plan},
    )
    kind = plan.get("kind", "numbers")
    if kind == "stream":
        return train_loader(Stream(size), how)
    data = Numbers(size)
    return train_loader(data, how, sampler=sampler_of(kind, data, LengthGroupedSampler))


def read(open_epoch: Callable[[int], Iterable[Tensor]]) -> list[Any]:
    """Return two epochs' batches, and where the default generator is after each."""
    found: list[Any] = []
    for epoch in range(2):
        found.append([batch.flatten().tolist() for batch in open_epoch(epoch)])
        found.append(crc32(torch.get_rng_state().numpy().tobytes()))
    return found


def compare() -> list[str]:
    """Return the plans in which the two differ."""
    from hftrain.data.epochs import EpochLoader
    from hftrain.hardware.engine import create_engine
    from hftrain.hardware.settings import EngineSettings

    engine = create_engine(EngineSettings(accelerator="cpu", ddp_timeout_s=60))
    differ: list[str] = []
    for plan in PLANS:
        for size in SIZES:
            torch.manual_seed(7)
            theirs = of_accelerate(size, plan)
            expected = read(lambda epoch, loader=theirs: loader.set_epoch(epoch) or loader)
            torch.manual_seed(7)
            got = read(EpochLoader(of_ours(size, plan, engine), seed=7).open)
            if got != expected:
                differ.append(f"{plan} of {size}: {got}, accelerate {expected}")
    engine.close()
    return differ


def test_batches_and_draws_are_those_of_accelerate() -> None:
    assert launch(compare) == [[], []]


def disagree() -> list[Any]:
    """Ranks whose default generators differ read one grouped order; a resume reads the rest of it."""
    from hftrain.data.epochs import EpochLoader
    from hftrain.hardware.engine import create_engine
    from hftrain.hardware.settings import EngineSettings

    engine = create_engine(EngineSettings(accelerator="cpu", ddp_timeout_s=60))
    torch.manual_seed(engine.process_index)
    source = EpochLoader(of_ours(16, {"kind": "grouped"}, engine), seed=7)
    whole = [batch.flatten().tolist() for batch in source.open(0)]
    resumed = EpochLoader(of_ours(16, {"kind": "grouped"}, engine), seed=7)
    resumed.load_order(source.order())
    rest = [batch.flatten().tolist() for batch in resumed.open(0, samples_done=8, batches_done=1)]
    engine.close()
    return [whole, rest]


def test_ranks_take_the_order_that_the_first_one_draws_and_a_resume_draws_it_again() -> None:
    ranks = launch(disagree)
    assert sorted(index for whole, _ in ranks for batch in whole for index in batch) == list(range(16))
    assert all(rest == whole[1:] for whole, rest in ranks)
