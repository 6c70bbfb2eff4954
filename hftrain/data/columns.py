"""Leaving out the columns that a model's forward does not name."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from hftrain.errors import DataError

logger = logging.getLogger(__name__)

_LABEL_COLUMNS = ("label", "label_ids")


def signature_columns(model: nn.Module, label_names: Iterable[str] = ()) -> list[str]:
    """Return what a batch may hold: the parameters of the model's forward, and the names of labels.

    An adapter model (one with ``get_base_model()``, as PEFT's) is asked for the model it adapts, since
    its own forward names nothing; PEFT's mixed adapters have it as ``base_model.model``.
    """
    base_of: Callable[[], Any] | None = getattr(model, "get_base_model", None)
    # A model of transformers with adapters added to it has a peft_config too, and is its own base.
    is_own_base = getattr(model, "_hf_peft_config_loaded", False)
    is_mixed = base_of is None and hasattr(model, "peft_config") and not is_own_base
    base: Any = model.base_model.model if is_mixed else model if base_of is None else base_of()  # type: ignore[union-attr]
    parameters = inspect.signature(base.forward).parameters
    return list(dict.fromkeys([*parameters, *_LABEL_COLUMNS, *label_names]))


def is_table(dataset: object) -> bool:
    """Whether this is a ``datasets.Dataset``, the kind whose columns can be left out without copying."""
    # Not imported: who has such an object has loaded the package.
    library = sys.modules.get("datasets")
    return library is not None and isinstance(dataset, library.Dataset)


def drop_unused(dataset: Any, columns: Sequence[str], *, description: str = "training") -> Any:
    """Return a ``datasets.Dataset`` with those of its columns that are in ``columns``; others as they are.

    Args:
        dataset: any data set.
        columns: what to keep, from `signature_columns`.
        description: what the data is for, in the log.

    Raises:
        DataError: none of its columns would be left.
    """
    if not is_table(dataset):
        return dataset
    unused = sorted(set(dataset.column_names) - set(columns))
    if not unused:
        return dataset
    if len(unused) == len(dataset.column_names):
        raise DataError(
            f"The {description} data has the columns {', '.join(unused)}, and the model's forward takes "
            f"{', '.join(columns)}: nothing would be left. Rename the columns, or set remove_unused_columns=False."
        )
    logger.info("Left out columns of the %s data that the model's forward does not take: %s.", description, unused)
    return dataset.remove_columns(unused)


class PruningCollator:
    """Leaves unused keys out of each sample before ``collate_fn`` sees it; for data sets that are no table.

    Args:
        collate_fn: makes the batch.
        columns: what to keep, from `signature_columns`.
        description: what the data is for, in the log.
    """

    def __init__(
        self, collate_fn: Callable[[list[Any]], Any], *, columns: Iterable[str], description: str = "training"
    ) -> None:
        self.collate_fn = collate_fn
        self.columns = frozenset(columns)
        self.description = description
        self._has_told = False

    def __call__(self, features: list[Any]) -> Any:
        """Make a batch. Samples that are no dicts are passed as they are."""
        return self.collate_fn([self._pruned(feature) for feature in features])

    def _pruned(self, feature: Any) -> Any:
        if not isinstance(feature, dict):
            return feature
        if not self._has_told:
            self._tell(feature)
        return {key: value for key, value in feature.items() if key in self.columns}

    def _tell(self, feature: dict[Any, Any]) -> None:
        self._has_told = True
        if unused := sorted(str(key) for key in feature.keys() - self.columns):
            logger.info(
                "Left out keys of the %s data that the model's forward does not take: %s.", self.description, unused
            )
