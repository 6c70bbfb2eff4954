"""Batch samplers for a data set, a sampler, or a part of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler

from hftrain.data.dealing import Tail, length_of
from hftrain.data.iterables import FillerCollate
from hftrain.data.samplers import EpochBatchSampler, EvalBatchSampler
from hftrain.data.settings import LoaderSettings
from hftrain.errors import DataError


def epoch_batches(
    num_samples: int, settings: LoaderSettings, *, batch_size: int, drop_last: bool, shuffle: bool = True
) -> EpochBatchSampler:
    """Return this rank's training batches in the seeded order."""
    return EpochBatchSampler(
        num_samples,
        batch_size=batch_size,
        seed=settings.seed,
        shuffle=shuffle,
        drop_last=drop_last,
        even_batches=settings.even_batches,
        process_index=settings.process_index,
        world_size=settings.world_size,
    )


def eval_batches(num_samples: int, settings: LoaderSettings, *, batch_size: int, drop_last: bool) -> EvalBatchSampler:
    """Return this rank's batches in the data set's order."""
    return EvalBatchSampler(
        num_samples,
        batch_size=batch_size,
        drop_last=drop_last,
        process_index=settings.process_index,
        world_size=settings.world_size,
    )


def sampled_eval_batches(
    sampler: Iterable[Any], settings: LoaderSettings, *, batch_size: int, drop_last: bool
) -> Sampler[list[int]]:
    """Return this rank's batches in a sampler's order, equally many on every rank."""
    batches = BatchSampler(sampler, batch_size, drop_last)
    return batches if settings.world_size == 1 else settings.dealt(batches, batch_size=None, tail=Tail.FILLER)


def train_batches(
    sampler: Iterable[Any], settings: LoaderSettings, *, batch_size: int, drop_last: bool
) -> Sampler[list[int]]:
    """Deal a sampler; where its order is one of ours, look it up instead."""
    if isinstance(sampler, BatchSampler):
        raise DataError(
            f"{type(sampler).__name__} is a batch sampler, given as the sampler of single indices. "
            f"Return DataLoader(data_set, batch_sampler=...) from get_train_dataloader, or give its inner sampler."
        )
    kind = type(sampler)
    num_samples = length_of(sampler)
    if num_samples == 0:
        raise DataError(f"The sampler ({kind.__name__}) gives no index. Give a data set with at least one sample.")
    if num_samples is not None and (kind is SequentialSampler or _is_replaceable(sampler, settings)):
        shuffle = kind is not SequentialSampler
        return epoch_batches(num_samples, settings, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)
    return settings.dealt(sampler, batch_size=batch_size, tail=settings.train_tail(drop_last=drop_last))


def _is_replaceable(sampler: Iterable[Any], settings: LoaderSettings) -> bool:
    return (
        type(sampler) is RandomSampler
        and settings.use_seedable_sampler
        and not sampler.replacement
        and sampler.num_samples == length_of(sampler.data_source)
    )


def marking(collate_fn: Callable[[Any], Any], settings: LoaderSettings, tail: Tail) -> Callable[[Any], Any]:
    """Return a collate function that tells fillers from samples, where there can be any."""
    return FillerCollate(collate_fn) if tail is Tail.FILLER and settings.world_size > 1 else collate_fn


def sized(data: Any) -> int:
    """Return the data set's length.

    Raises:
        DataError: it has none, or no samples.
    """
    length = length_of(data)
    if length is None:
        raise DataError(
            f"{type(data).__name__} has __getitem__ but no length, so there is no telling which indices it has. "
            f"Define __len__, give a sampler, or make it a torch.utils.data.IterableDataset and set max_steps."
        )
    if length == 0:
        raise DataError(f"The data set ({type(data).__name__}) is empty. Give one with at least one sample.")
    return length
