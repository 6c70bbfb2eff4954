"""Loaders for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler, default_collate

from hftrain.data.batching import epoch_batches, eval_batches, marking, sampled_eval_batches, sized, train_batches
from hftrain.data.dealing import Tail, length_of
from hftrain.data.epochs import num_samples_of
from hftrain.data.iterables import IterableShard
from hftrain.data.settings import LoaderSettings
from hftrain.data.sharing import dispatched, is_dealt, seeded_loader, shared_eval_loader, shared_train_loader
from hftrain.data.streams import FromWorkerCollate, StreamLoader
from hftrain.errors import DataError

CollateFn = Callable[[list[Any]], Any]
Loader = DataLoader[Any]


@dataclass(frozen=True)
class KeptLoader:
    """A loader whose workers wait for the next evaluation, and what it was made of."""

    loader: Loader
    dataset: Any
    settings: LoaderSettings
    data_collator: Any

    def serves(self, dataset: Any, settings: LoaderSettings, data_collator: Any) -> bool:
        """Whether a loader made of these would be the same."""
        is_same = self.dataset is dataset and self.data_collator is data_collator
        return is_same and self.settings == settings


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
        return _checked(_prepared(data, settings, training=True))
    if settings.dispatches(data):
        whole = train_loader(data, settings.alone(), collate_fn=collate_fn, sampler=sampler)
        return _checked(dispatched(whole, settings, training=True, drops_last=settings.drop_last))
    if _is_iterable(data):
        if sampler is not None:
            raise DataError(
                f"A sampler was given for {type(data).__name__}, an iterable data set, which has its own order. "
                f"Leave the sampler out, or give a data set with __getitem__ and __len__."
            )
        return _checked(_iterable_loader(data, settings, training=True, collate_fn=collate_fn))
    how: dict[str, Any] = {"batch_size": settings.rank_share(settings.batch_size), "drop_last": settings.drop_last}
    if sampler is None and not settings.use_seedable_sampler:
        sized(data)
        sampler = RandomSampler(data)
    if sampler is None:
        batches: Sampler[list[int]] = epoch_batches(sized(data), settings, **how)
    else:
        batches = train_batches(sampler, settings, **how)
    options = settings.worker_options(training=True)
    return _checked(DataLoader(data, batch_sampler=batches, collate_fn=collate_fn, **options))


def eval_loader(
    data: Any,
    settings: LoaderSettings,
    *,
    collate_fn: CollateFn | None = None,
    sampler: Iterable[Any] | None = None,
) -> Loader:
    """Return this rank's loader for evaluation: every sample once, in order, equally many batches on every rank.

    Which samples of a batch count says `EpochLoader.num_real`. ``drop_last`` leaves out a last batch
    that is not full. Arguments and errors as for `train_loader`; a ``sampler`` gives another order.
    """
    if isinstance(data, DataLoader):
        return _checked(_prepared(data, settings, training=False))
    if settings.dispatches(data):
        whole = eval_loader(data, settings.alone(), collate_fn=collate_fn, sampler=sampler)
        return _checked(dispatched(whole, settings, training=False))
    if _is_iterable(data):
        return _checked(_iterable_loader(data, settings, training=False, collate_fn=collate_fn))
    how: dict[str, Any] = {"batch_size": settings.rank_share(settings.batch_size), "drop_last": settings.drop_last}
    if sampler is None or type(sampler) is SequentialSampler:
        num_samples = sized(data) if sampler is None else len(sampler)
        batches: Sampler[list[int]] = eval_batches(num_samples, settings, **how)
    else:
        batches = sampled_eval_batches(sampler, settings, **how)
    options = settings.worker_options(training=False)
    return _checked(DataLoader(data, batch_sampler=batches, collate_fn=collate_fn, **options))


def prepared_loader(loader: Loader, settings: LoaderSettings, *, training: bool) -> Loader:
    """Return a loader that a user made as ``accelerator.prepare`` would: shuffled by seed and epoch, and divided.

    On one process too, a loader with ``shuffle=True`` gets the seeded order, unless ``use_seedable_sampler=False``.
    """
    return _checked(seeded_loader(_prepared(loader, settings, training=training), settings))


def is_map_style(data: Any) -> bool:
    """Whether a sampler can give the order of this data: it is neither iterable only nor a loader."""
    return not isinstance(data, (IterableDataset, DataLoader))


def num_examples_of(loader: Any) -> int | None:
    """Return the samples of a loader's data set, all ranks' together; None when unknown."""
    dataset = getattr(loader, "dataset", None)
    return length_of(dataset.dataset if isinstance(dataset, IterableShard) else dataset)


def _prepared(loader: Loader, settings: LoaderSettings, *, training: bool) -> Loader:
    if is_dealt(loader, settings):
        return loader
    if settings.dispatches(loader.dataset):
        seeded = seeded_loader(loader, settings)
        return dispatched(seeded, settings, training=training, drops_last=training and loader.drop_last)
    return (shared_train_loader if training else shared_eval_loader)(loader, settings)


def _iterable_loader(
    data: IterableDataset[Any], settings: LoaderSettings, *, training: bool, collate_fn: CollateFn | None
) -> Loader:
    share = settings.rank_share(settings.batch_size)
    evaluation = Tail.DROP if settings.drop_last else Tail.FILLER
    tail = settings.train_tail(drop_last=settings.drop_last) if training else evaluation
    deal = settings.deal(share=share, tail=tail)
    marked = marking(collate_fn or default_collate, settings, tail)
    is_followed = training and settings.num_workers > 0
    return (StreamLoader if is_followed else DataLoader)(
        IterableShard(data, deal=deal, seed=settings.seed, persistent=settings.persistent_workers, is_seeding=training),
        batch_size=share,
        drop_last=settings.drop_last,
        collate_fn=FromWorkerCollate(marked) if is_followed else marked,
        **settings.worker_options(training=training),
    )


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
