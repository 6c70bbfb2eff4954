"""A loader that a user made: divided among the processes, with everything else as it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from hftrain.data.batching import eval_batches, marking, sampled_eval_batches, sized, train_batches
from hftrain.data.dealing import Tail
from hftrain.data.dealt import DealtSampler
from hftrain.data.dispatch import DispatchingLoader
from hftrain.data.epochs import dealer_of
from hftrain.data.iterables import IterableShard
from hftrain.data.settings import LoaderSettings, RankSeed
from hftrain.data.streams import FromWorkerCollate
from hftrain.errors import DataError

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


def is_dealt(loader: Loader, settings: LoaderSettings) -> bool:
    """Whether every rank already gets its own part out of the loader."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return (
        settings.world_size == 1
        or dealer_of(loader) is not None
        or any(isinstance(sampler, DistributedSampler) for sampler in samplers)
    )


def seeded_loader(loader: Loader, settings: LoaderSettings) -> Loader:
    """Make a loader that shuffles again in the seeded order; others are returned as they are."""
    batches = loader.batch_sampler
    is_shuffled = type(batches) is BatchSampler and type(batches.sampler) is RandomSampler
    if not (is_shuffled and settings.use_seedable_sampler) or dealer_of(loader) is not None:
        return loader
    assert isinstance(batches, BatchSampler)
    own = train_batches(batches.sampler, settings, batch_size=batches.batch_size, drop_last=batches.drop_last)
    return remade(loader, settings, batch_sampler=own)


def dispatched(
    loader: Loader, settings: LoaderSettings, *, training: bool, drops_last: bool = False
) -> DispatchingLoader:
    """Make a loader of everything into one that the main process reads for all.

    Args:
        loader: of one process.
        settings: how; of this rank among all.
        training: fill up a last round with samples of the first; evaluation counts every sample once.
        drops_last: leave out a last round that is not full.
    """
    if isinstance(loader.dataset, IterableDataset):
        batching: dict[str, Any] = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None:
        batching = {"batch_sampler": loader.batch_sampler}
    else:
        batching = {"batch_size": None, "sampler": loader.sampler}
    assert settings.exchange is not None  # what `LoaderSettings.dispatches` asks for
    return DispatchingLoader(
        loader.dataset,
        exchange=settings.exchange,
        world_size=settings.world_size,
        is_main=settings.process_index == 0,
        split=settings.split_batches,
        drops_last=drops_last,
        repeats=training,
        **{name: getattr(loader, name) for name in _KEPT_SETTINGS} | batching | _plain_collate(loader),
    )


def _plain_collate(loader: Loader) -> dict[str, Any]:
    collate_fn = loader.collate_fn
    return {"collate_fn": collate_fn.collate_fn} if isinstance(collate_fn, FromWorkerCollate) else {}


def shared_train_loader(loader: Loader, settings: LoaderSettings) -> Loader:
    """Make a user's loader again, so that every rank gets its own part."""
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return _shared_iterable_loader(
            loader, loader.dataset, settings, tail=settings.train_tail(drop_last=loader.drop_last)
        )
    if batches is None:
        tail = settings.train_tail(drop_last=False)
        return remade(loader, settings, sampler=settings.dealt(loader.sampler, batch_size=None, tail=tail))
    if type(batches) is BatchSampler:
        share = settings.rank_share(batches.batch_size)
        own = train_batches(batches.sampler, settings, batch_size=share, drop_last=batches.drop_last)
        return remade(loader, settings, batch_sampler=own)
    tail = settings.train_tail(drop_last=getattr(batches, "drop_last", False))
    return remade(loader, settings, batch_sampler=_dealt_whole(batches, settings, tail=tail))


def shared_eval_loader(loader: Loader, settings: LoaderSettings) -> Loader:
    """Make a user's loader again, so that every sample goes to one rank."""
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset):
        return _shared_iterable_loader(
            loader, loader.dataset, settings, tail=Tail.DROP if loader.drop_last else Tail.FILLER
        )
    if batches is None:
        return remade(loader, settings, sampler=settings.dealt(loader.sampler, batch_size=None, tail=Tail.FILLER))
    if type(batches) is not BatchSampler:
        return remade(loader, settings, batch_sampler=_dealt_whole(batches, settings, tail=Tail.FILLER))
    share, drop_last = settings.rank_share(batches.batch_size), batches.drop_last
    if type(batches.sampler) is SequentialSampler:
        own = eval_batches(sized(loader.dataset), settings, batch_size=share, drop_last=drop_last)
        return remade(loader, settings, batch_sampler=own)
    sampled = sampled_eval_batches(batches.sampler, settings, batch_size=share, drop_last=drop_last)
    return remade(loader, settings, batch_sampler=sampled)


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
    return remade(loader, settings, dataset=shard, collate_fn=marking(loader.collate_fn, settings, tail), **batching)


def _dealt_whole(batches: Iterable[Any], settings: LoaderSettings, *, tail: Tail) -> DealtSampler:
    """Deal the batches of a user's batch sampler in turn."""
    if settings.split_batches:
        raise DataError(
            f"split_batches=True cannot divide the batches of {type(batches).__name__}, whose sizes are its own. "
            f"Set split_batches=False: each process then takes whole batches in turn."
        )
    return settings.dealt(batches, batch_size=None, tail=tail)


def remade(loader: Loader, settings: LoaderSettings, **changes: Any) -> Loader:
    """Make a loader again with other samples or another order; without batching where it had none."""
    arguments = {name: getattr(loader, name) for name in _KEPT_SETTINGS} | {"dataset": loader.dataset}
    if not {"batch_size", "batch_sampler"} & changes.keys():
        arguments["batch_size"] = None
    if loader.num_workers and loader.worker_init_fn is None:
        arguments["worker_init_fn"] = RankSeed(settings.process_index * loader.num_workers)
    return DataLoader(**(arguments | changes))
