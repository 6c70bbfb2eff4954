"""Which device a process computes on, and how batches get there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hftrain.errors import HardwareError
from hftrain.hardware.tree import map_tree
from hftrain.hardware.vendors import is_importable
from hftrain.hardware.world import World
from hftrain.hardware.xla import xla_device

logger = logging.getLogger(__name__)


def cuda_is_there() -> bool:
    """Whether this process sees a CUDA (or ROCm) device; does not initialise it."""
    return torch.cuda.is_available()


def mps_is_there() -> bool:
    """Whether this process sees Apple's GPU."""
    return torch.backends.mps.is_available()


def xla_is_there() -> bool:
    """Whether torch_xla is installed; whether there is a TPU shows when it is asked for."""
    return is_importable("xla")


# In the order in which "auto" looks: a TPU is used only where it is asked for.
_IS_THERE: dict[str, Callable[[], bool]] = {
    "cuda": cuda_is_there,
    "mps": mps_is_there,
    "cpu": lambda: True,
    "xla": xla_is_there,
}


def resolve_accelerator(accelerator: str) -> str:
    """Turn "auto" into the best device type at hand ("cuda", "mps", "cpu"), and check one that was asked for.

    Raises:
        HardwareError: the name is unknown, or this machine has no such device.
    """
    if accelerator == "auto":
        return next(name for name, is_there in _IS_THERE.items() if is_there())
    if accelerator not in _IS_THERE:
        raise HardwareError(f"accelerator={accelerator!r} is not known. Set one of auto, {', '.join(_IS_THERE)}.")
    if not _IS_THERE[accelerator]():
        there = [name for name, is_there in _IS_THERE.items() if is_there()]
        raise HardwareError(
            f"accelerator={accelerator!r} was asked for, but this machine offers {', '.join(there)} only. "
            f"Set accelerator='auto', or install a torch build that supports it (torch {torch.__version__})."
        )
    return accelerator


def resolve_device(accelerator: str, world: World) -> torch.device:
    """The one device of this process: ``cuda:<local rank>``, ``mps:0``, a TPU's core or ``cpu``.

    Raises:
        HardwareError: there is no such device, there are more processes than GPUs, or several for MPS or a TPU.
    """
    kind = resolve_accelerator(accelerator)
    if kind == "cpu":
        return torch.device("cpu")
    if kind in ("mps", "xla"):
        if world.world_size > 1:
            raise HardwareError(
                f"{world.world_size} processes were started, but {kind.upper()} runs in one process. Start without "
                "torchrun, or set use_cpu=True."
            )
        return torch.device("mps", 0) if kind == "mps" else xla_device()
    if world.local_process_index >= torch.cuda.device_count():
        raise HardwareError(
            f"{world.local_world_size} processes were started on a machine where {torch.cuda.device_count()} GPUs are "
            "visible. Set --nproc-per-node to at most that, check CUDA_VISIBLE_DEVICES, or set use_cpu=True."
        )
    if world.world_size == 1:
        _name_idle_gpus(torch.cuda.device_count())
    return torch.device("cuda", world.local_process_index)


@cache
def _name_idle_gpus(num_visible: int) -> None:
    """Say once how the GPUs that this process leaves alone would be used; it never spreads a model by itself."""
    if num_visible > 1:
        script = sys.argv[0] or "train.py"
        logger.warning(
            "%d GPUs are visible and this process trains on one. To use them all: torchrun --nproc-per-node %d %s",
            num_visible,
            num_visible,
            script,
        )


def batch_mover(device: torch.device, *, non_blocking: bool = False) -> Callable[[Any], Any]:
    """A function that moves a nested batch to ``device`` and returns the same object when nothing had to move.

    Tensors in dicts, lists, tuples, named tuples and dataclasses move, and so does any object with a ``.to(device)``
    method (``BatchEncoding``, ``PackedSequence``). Where no other device exists there is nothing to look for, so the
    function is the identity. ``non_blocking`` is kept for CUDA only: on MPS it races (pytorch/pytorch#83015).
    """
    if device.type == "cpu" and not cuda_is_there() and not mps_is_there():
        return _unchanged
    non_blocking = non_blocking and device.type == "cuda"

    def leaf(data: Any) -> Any:
        if isinstance(data, Tensor):
            return data if data.device == device else data.to(device, non_blocking=non_blocking)
        if not _has_to(data):
            return data
        moved = data.to(device)
        return data if moved is None else moved

    def move(batch: Any) -> Any:
        return map_tree(batch, leaf, is_leaf=_has_to)

    return move


def _unchanged(batch: Any) -> Any:
    return batch


def _has_to(data: Any) -> bool:
    return callable(getattr(type(data), "to", None))
