"""Whether a checkpoint will fit where it is to be written, asked before the first step."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hftrain.checkpoint.storage import folder_of, is_url

logger = logging.getLogger(__name__)

MARGIN = 1.1
"""So many times a checkpoint's tensors must be free: documents, and blocks that are not full, come on top."""
_KERNELS = ("fused", "foreach", "capturable")
"""Settings of kernels that need memory; what is kept is the same without them."""


def free_bytes(folder: str) -> int | None:
    """Bytes that this user may still write where a folder lies, or will lie; None where nothing tells: URLs."""
    if is_url(folder):
        return None
    while not os.path.isdir(folder):
        folder = folder_of(folder)
    return shutil.disk_usage(folder).free


def num_bytes(values: Iterable[Any]) -> int:
    """Bytes of the tensors among values; those that are one memory count once, as they are written once."""
    sizes: dict[tuple[int, int, torch.dtype], int] = {}
    for value in values:
        if isinstance(value, Tensor):
            memory = value.data_ptr() or id(value)
            sizes[memory, value.numel(), value.dtype] = value.numel() * value.element_size()
    return sum(sizes.values())


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state once every parameter was updated.

    What is not there before the first step is found by a step on tensors without memory. An optimizer that cannot do
    that, or is not torch's or ours, counts with the state that it has.
    """
    found = num_bytes(value for state in optimizer.state.values() for value in state.values())
    groups = [
        {**group, "params": [one for one in group["params"] if one.requires_grad and not optimizer.state.get(one)]}
        for group in optimizer.param_groups
    ]
    if not type(optimizer).__module__.startswith(("torch.optim", "hftrain.")):
        return found
    try:
        return found + sum(_bytes_of_first_state(optimizer, group) for group in groups if group["params"])
    except Exception as error:  # not to know it is no reason to refuse a run
        logger.info("How large the state of %s will be is not known: %s", type(optimizer).__name__, error)
        return found


def _bytes_of_first_state(optimizer: Optimizer, group: dict[str, Any]) -> int:
    settings = group | {name: False for name in _KERNELS if name in group}
    takes = inspect.signature(type(optimizer)).parameters
    options = {name: value for name, value in settings.items() if name in takes and name != "params"}
    counts = Counter((tuple(parameter.shape), parameter.dtype) for parameter in group["params"])
    total = 0
    for (shape, dtype), count in counts.items():
        stand_in = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
        stand_in.grad = torch.empty_like(stand_in)
        lone = type(optimizer)([{**settings, "params": [stand_in]}], **options)
        lone.step()
        total += count * sum(
            value.numel() * value.element_size() for value in lone.state[stand_in].values() if isinstance(value, Tensor)
        )
    return total
