"""From a list of features to a batch, for models whose forward names its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hftrain.errors import DataError

_LABEL_KEYS = ("label", "label_ids")


def default_data_collator(features: Sequence[Any], return_tensors: str = "pt") -> dict[str, Tensor]:
    """Stack features of equal shape into tensors, one per key.

    ``label`` (one number a sample) or else ``label_ids`` (a list of them) becomes ``labels``: int64
    where the first sample's is a Python int, float32 otherwise; tensors keep their type. Strings and
    keys that are None in the first sample are left out.

    Args:
        features: mappings, or objects with attributes (dataclasses), all with the first one's keys.
        return_tensors: "pt"; there are no others here.

    Returns:
        Each value has the shape ``(len(features), *shape of one)``.

    Raises:
        DataError: no features, something that is no feature, or values of unequal shapes.
    """
    if return_tensors != "pt":
        raise DataError(f'return_tensors="{return_tensors}": batches are torch tensors. Set return_tensors="pt".')
    if not features:
        raise DataError("A batch of no features was asked for. Give default_data_collator at least one.")
    rows = [_as_mapping(feature) for feature in features]
    first = rows[0]
    batch: dict[str, Tensor] = {}
    for key in _LABEL_KEYS:
        if first.get(key) is not None:
            batch["labels"] = _stacked(rows, key, _LABELS[key])
            break
    for key, value in first.items():
        if key not in _LABEL_KEYS and value is not None and not isinstance(value, str):
            batch[key] = _stacked(rows, key, _tensor_of)
    return batch


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


def _stacked(rows: list[Mapping[str, Any]], key: str, stack: Callable[[list[Any]], Tensor]) -> Tensor:
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


_LABELS: dict[str, Callable[[list[Any]], Tensor]] = {"label": _labels, "label_ids": _label_lists}
