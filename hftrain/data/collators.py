"""From a list of features to a batch, for models whose forward names its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hftrain.errors import DataError

_LABEL_KEYS = ("label", "label_ids")


Stack = Callable[[list[Any]], Any]


def default_data_collator(features: Sequence[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack features of equal shape into tensors, one per key.

    ``label`` (one number a sample) or else ``label_ids`` (a list of them) becomes ``labels``: int64
    where the first sample's is a Python int, float32 otherwise; tensors keep their type. Strings and
    keys that are None in the first sample are left out.

    Args:
        features: mappings, or objects with attributes (dataclasses), all with the first one's keys.
        return_tensors: "pt" for torch tensors, "np" for arrays.

    Returns:
        Each value has the shape ``(len(features), *shape of one)``.

    Raises:
        DataError: no features, something that is no feature, or values of unequal shapes.
    """
    if return_tensors not in _STACKS:
        raise DataError(f'return_tensors={return_tensors!r} is no kind of batch. Set "pt" (torch) or "np" (numpy).')
    if not features:
        raise DataError("A batch of no features was asked for. Give default_data_collator at least one.")
    rows = [_as_mapping(feature) for feature in features]
    first, stacks = rows[0], _STACKS[return_tensors]
    batch: dict[str, Any] = {}
    for key in _LABEL_KEYS:
        if first.get(key) is not None:
            batch["labels"] = _stacked(rows, key, stacks[key])
            break
    for key, value in first.items():
        if key not in _LABEL_KEYS and value is not None and not isinstance(value, str):
            batch[key] = _stacked(rows, key, stacks["other"])
    return batch


@dataclass
class DefaultDataCollator:
    """`default_data_collator` as an object, for when ``return_tensors`` is settled once."""

    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Make a batch."""
        return default_data_collator(features, return_tensors or self.return_tensors)


@dataclass
class DataCollatorWithPadding:
    """Pads the features of a batch to one length, by the tokenizer's ``pad``.

    Args:
        tokenizer: a tokenizer or feature extractor with ``pad``.
        padding: True or "longest" pads to the longest of the batch, "max_length" to ``max_length``, False not at all.
        max_length: for "max_length".
        pad_to_multiple_of: round the length up to a multiple of it.
        return_tensors: "pt" for torch tensors, "np" for arrays.
    """

    tokenizer: Any
    padding: Any = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: list[Any]) -> Any:
        """Make a batch; ``label`` or ``label_ids`` becomes ``labels``.

        Raises:
            ValueError: the tokenizer's, when what it is given cannot be padded.
        """
        batch = padded(
            self.tokenizer,
            features,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=self.return_tensors,
        )
        for key in _LABEL_KEYS:
            if key in batch:
                batch["labels"] = batch.pop(key)
        return batch


def padded(tokenizer: Any, features: Any, **how: Any) -> Any:
    """Return ``tokenizer.pad(features, **how)``, without its advice to pad while tokenizing.

    A collator can only pad afterwards, so the advice is about nothing that could be changed.
    """
    with _without_advice(tokenizer):
        return tokenizer.pad(features, **how)


@contextmanager
def _without_advice(tokenizer: Any) -> Iterator[None]:
    given: dict[str, bool] | None = getattr(tokenizer, "deprecation_warnings", None)
    if given is None:
        yield
        return
    key = "Asking-to-pad-a-fast-tokenizer"
    before = given.get(key, False)
    given[key] = True
    try:
        yield
    finally:
        given[key] = before


def _as_mapping(feature: Any) -> Mapping[str, Any]:
    if isinstance(feature, Mapping):
        return feature
    if hasattr(feature, "__dict__"):
        attributes: dict[str, Any] = vars(feature)
        return attributes
    raise DataError(
        f"default_data_collator makes batches of mappings or of objects with attributes, and got a sample of type "
        f"{type(feature).__name__}. Return a dict from the data set, or set data_collator."
    )


def _stacked(rows: list[Mapping[str, Any]], key: str, stack: Stack) -> Any:
    try:
        return stack([row[key] for row in rows])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"The values of {key!r} cannot be stacked into one tensor: {_described(rows, key)}. "
            f"Bring them to one shape in the data set, or set a data_collator that pads."
        ) from error


def _described(rows: list[Mapping[str, Any]], key: str) -> str:
    shown = [
        f"sample {index} has {_shape_of(row[key]) if key in row else 'none'}" for index, row in enumerate(rows[:8])
    ]
    return ", ".join(shown) + (", ..." if len(rows) > 8 else "")


def _shape_of(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"shape {tuple(value.shape)}"
    return f"length {len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__


def _tensor_of(values: list[Any]) -> Tensor:
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    return torch.tensor(values)


def _labels(values: list[Any]) -> Tensor:
    first = values[0].item() if isinstance(values[0], Tensor) else values[0]
    return torch.tensor(values, dtype=torch.int64 if isinstance(first, int) else torch.float32)


def _label_lists(values: list[Any]) -> Tensor:
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    kind = torch.int64 if type(values[0][0]) is int else torch.float32
    # Through one array: torch is very slow on a list of arrays, and says so in a warning.
    return torch.tensor(np.array(values) if isinstance(values[0], np.ndarray) else values, dtype=kind)


def _array_of(values: list[Any]) -> Any:
    return np.stack(values) if isinstance(values[0], np.ndarray) else np.array(values)


def _label_array(values: list[Any]) -> Any:
    first = values[0].item() if isinstance(values[0], np.ndarray) else values[0]
    return np.array(values, dtype=np.int64 if isinstance(first, int) else np.float32)


def _label_list_array(values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return np.stack(values)
    return np.array(values, dtype=np.int64 if isinstance(values[0][0], int) else np.float32)


_STACKS: dict[str, dict[str, Stack]] = {
    "pt": {"label": _labels, "label_ids": _label_lists, "other": _tensor_of},
    "np": {"label": _label_array, "label_ids": _label_list_array, "other": _array_of},
}
