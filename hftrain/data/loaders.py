"""Loaders for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from hftrain.data.dealing import Tail, length_of
from hftrain.data.epochs import EpochLoader, dealer_of, num_samples_of
from hftrain.data.iterables import FillerCollate, IterableShard
from hftrain.data.samplers import DealtSampler, EpochBatchSampler, EvalBatchSampler
from hftrain.data.settings import LoaderSettings, RankSeed
from hftrain.errors import DataError

__all__ = ["CollateFn", "EpochLoader", "Loader", "LoaderSettings", "eval_loader", "train_loader"]

CollateFn = Callable[[list[Any]], Any]
Loader = DataLoader[Any]

_KEPT_SETTINGS = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)


def train_loader(
    data: Any,
    settings: LoaderSettings,
    *,
    collate_fn: CollateFn | None = None,
    sampler: Iterable[Any] | None = None,
) -> Loader:
    """Return this rank's loader of training batches.

    Args:
        data: a map-style or iterable data set, a list or tuple, or a ready DataLoader. A loader is
            used as it is on one process; on several it is made again with the same settings, its
            ``batch_size`` meaning one process's, so that every rank has its own samples. One with a
            `DistributedSampler` deals by itself and is used as it is.
        settings: how.
        collate_fn: makes a batch from a list of samples; default: torch's.
        sampler: order of a map-style data set instead of the seeded shuffle; every rank reads all of it.
            ``use_seedable_sampler=False`` means torch's `RandomSampler`, which draws from the default generator.

    Raises:
        DataError: no samples, no length where one is needed, something that is no data set, or not one full batch.
    """
    if isinstance(data, DataLoader):
        if sampler is not None:
            raise DataError("A sampler was given beside a DataLoader, which has its own. Give the data set instead.")
        return _checked(data if _is_dealt(data, settings) else _shared_train_loader(data, settings))
    share = settings.rank_share(settings.batch_size)
    tail = settings.train_tail(drop_last=settings.drop_last)
    if _is_iterable(data):
        if sampler is not None:
            raise DataError(
                f"A sampler was given for {type(data).__name__}, an iterable data set, which has its own order. "
                f"Leave the sampler out, or give a data set with __getitem__ and __len__."
            )
        return _checked(_iterable_loader(data, settings, share=share, tail=tail, collate_fn=collate_fn))
    if sampler is None and not settings.use_seedable_sampler:
        _length(data)
        sampler = RandomSampler(data)
    if sampler is None:
        batches: Sampler[list[int]] = _epoch_batches(
            _length(data), settings, batch_size=share, drop_last=settings.drop_last
        )
    else:
        batches = _train_batches(sampler, settings, batch_size=share, drop_last=settings.drop_last)
    return _checked(DataLoader(data, batch_sampler=batches, collate_fn=collate_fn, **settings.worker_options()))


def eval_loader(data: Any, settings: LoaderSettings, *, collate_fn: CollateFn | None = None) -> Loader:
    """Return this rank's loader for evaluation: every sample once, in order, equally many batches on every rank.

    Which samples of a batch count says `EpochLoader.num_real`. ``drop_last`` leaves out a last batch
    that is not full. Arguments and errors as for `train_loader`.
    """
    if isinstance(data, DataLoader):
        return _checked(data if _is_dealt(data, settings) else _shared_eval_loader(data, settings))
    share = settings.rank_share(settings.batch_size)
    if _is_iterable(data):
        tail = Tail.DROP if settings.drop_last else Tail.FILLER
        return _checked(_iterable_loader(data, settings, share=share, tail=tail, collate_fn=collate_fn))
    batches = _eval_batches(_length(data), settings, batch_size=share, drop_last=settings.drop_last)
    return _checked(DataLoader(data, batch_sampler=batches, collate_fn=collate_fn, **settings.worker_options()))


def _epoch_batches(
    num_samples: int, settings: LoaderSettings, *, batch_size: int, drop_last: bool, shuffle: bool = True
) -> EpochBatchSampler:
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


def _eval_batches(num_samples: int, settings: LoaderSettings, *, batch_size: int, drop_last: bool) -> EvalBatchSampler:
    return EvalBatchSampler(
        num_samples,
        batch_size=batch_size,
        drop_last=drop_last,
        process_index=settings.process_index,
        world_size=settings.world_size,
    )


def _train_batches(
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
        return _epoch_batches(num_samples, settings, batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)
    return settings.dealt(sampler, batch_size=batch_size, tail=settings.train_tail(drop_last=drop_last))


def _is_replaceable(sampler: Iterable[Any], settings: LoaderSettings) -> bool:
    return (
        type(sampler) is RandomSampler
        and settings.use_seedable_sampler
        and not sampler.replacement
        and sampler.num_samples == length_of(sampler.data_source)
    )


def _iterable_loader(
    data: IterableDataset[Any], settings: LoaderSettings, *, share: int, tail: Tail, collate_fn: CollateFn | None
) -> Loader:
    deal = settings.deal(share=share, tail=tail)
    return DataLoader(
        IterableShard(data, deal=deal, seed=settings.seed, persistent=settings.persistent_workers),
        batch_size=share,
        drop_last=settings.drop_last,
        collate_fn=_marking(collate_fn or default_collate, settings, tail),
        **settings.worker_options(),
    )


def _marking(collate_fn: Callable[[Any], Any], settings: LoaderSettings, tail: Tail) -> Callable[[Any], Any]:
    return FillerCollate(collate_fn) if tail is Tail.FILLER and settings.world_size > 1 else collate_fn


def _is_dealt(loader: Loader, settings: LoaderSettings) -> bool:
    """Whether every rank already gets its own part out of the loader."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return (
        settings.world_size == 1
        or dealer_of(loader) is not None
        or any(isinstance(sampler, DistributedSampler) for sampler in samplers)
    )


def _shared_train_loader(loader: Loader, settings: LoaderSettings) -> Loader:
    """Make a user's loader again, so that every rank gets its own part."""
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return _shared_iterable_loader(
            loader, loader.dataset, settings, tail=settings.train_tail(drop_last=loader.drop_last)
        )
    if batches is None:
        tail = settings.train_tail(drop_last=False)
        return _remade(loader, settings, sampler=settings.dealt(loader.sampler, batch_size=None, tail=tail))
    if type(batches) is BatchSampler:
        share = settings.rank_share(batches.batch_size)
        own = _train_batches(batches.sampler, settings, batch_size=share, drop_last=batches.drop_last)
        return _remade(loader, settings, batch_sampler=own)
    tail = settings.train_tail(drop_last=getattr(batches, "drop_last", False))
    return _remade(loader, settings, batch_sampler=_dealt_whole(batches, settings, tail=tail))


def _shared_eval_loader(loader: Loader, settings: LoaderSettings) -> Loader:
    """Make a user's loader again, so that every sample goes to one rank."""
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return _shared_iterable_loader(
            loader, loader.dataset, settings, tail=Tail.DROP if loader.drop_last else Tail.FILLER
        )
    if batches is None:
        return _remade(loader, settings, sampler=settings.dealt(loader.sampler, batch_size=None, tail=Tail.FILLER))
    if type(batches) is not BatchSampler:
        return _remade(loader, settings, batch_sampler=_dealt_whole(batches, settings, tail=Tail.FILLER))
    share, drop_last = settings.rank_share(batches.batch_size), batches.drop_last
    if type(batches.sampler) is SequentialSampler:
        own = _eval_batches(_length(loader.dataset), settings, batch_size=share, drop_last=drop_last)
        return _remade(loader, settings, batch_sampler=own)
    whole = BatchSampler(batches.sampler, share, drop_last)
    return _remade(loader, settings, batch_sampler=settings.dealt(whole, batch_size=None, tail=Tail.FILLER))


def _shared_iterable_loader(
    loader: Loader, dataset: IterableDataset[Any], settings: LoaderSettings, *, tail: Tail
) -> Loader:
    share = 1 if loader.batch_size is None else settings.rank_share(loader.batch_size)
    deal = settings.deal(share=share, tail=tail)
    shard = IterableShard(
        dataset,
        deal=deal,
        seed=settings.seed,
        persistent=loader.persistent_workers,
        gives_batches=loader.batch_size is None,
    )
    batching = {} if loader.batch_size is None else {"batch_size": share, "drop_last": loader.drop_last}
    return _remade(loader, settings, dataset=shard, collate_fn=_marking(loader.collate_fn, settings, tail), **batching)


def _dealt_whole(batches: Iterable[Any], settings: LoaderSettings, *, tail: Tail) -> DealtSampler:
    """Deal the batches of a user's batch sampler in turn."""
    if settings.split_batches:
        raise DataError(
            f"split_batches=True cannot divide the batches of {type(batches).__name__}, whose sizes are its own. "
            f"Set split_batches=False: each process then takes whole batches in turn."
        )
    return settings.dealt(batches, batch_size=None, tail=tail)


def _remade(loader: Loader, settings: LoaderSettings, **changes: Any) -> Loader:
    """Make a loader again with other samples or another order; without batching where it had none."""
    arguments = {name: getattr(loader, name) for name in _KEPT_SETTINGS} | {"dataset": loader.dataset}
    if not {"batch_size", "batch_sampler"} & changes.keys():
        arguments["batch_size"] = None
    if loader.num_workers and loader.worker_init_fn is None:
        arguments["worker_init_fn"] = RankSeed(settings.process_index * loader.num_workers)
    return DataLoader(**(arguments | changes))


def _is_iterable(data: Any) -> bool:
    """Tell an iterable data set from a map-style one, and refuse what is neither."""
    name = type(data).__name__
    if isinstance(data, Mapping):
        raise DataError(f"{name} with keys {list(data)[:8]} is not a data set. Give one of its values.")
    if isinstance(data, IterableDataset):
        return True
    if hasattr(data, "__getitem__"):
        return False
    advice = "Give a list, a data set with __getitem__ and __len__, or a torch.utils.data.IterableDataset"
    if hasattr(data, "__iter__"):
        raise DataError(f"{name} can be iterated, perhaps only once, but is no data set. {advice} that yields from it.")
    raise DataError(f"{name} is no data set. {advice}.")


def _length(data: Any) -> int:
    length = length_of(data)
    if length is None:
        raise DataError(
            f"{type(data).__name__} has __getitem__ but no length, so there is no telling which indices it has. "
            f"Define __len__, give a sampler, or make it a torch.utils.data.IterableDataset and set max_steps."
        )
    if length == 0:
        raise DataError(f"The data set ({type(data).__name__}) is empty. Give one with at least one sample.")
    return length


def _checked(loader: Loader) -> Loader:
    if length_of(loader) != 0:
        return loader
    if num_samples := num_samples_of(loader):
        raise DataError(
            f"Not one batch can be made: {num_samples} samples do not fill a batch on every process, "
            f"and drop_last leaves out what does not. Set dataloader_drop_last=False, or a smaller batch size."
        )
    dataset = loader.dataset.dataset if isinstance(loader.dataset, IterableShard) else loader.dataset
    raise DataError(f"The data set ({type(dataset).__name__}) is empty. Give one with at least one sample.")
