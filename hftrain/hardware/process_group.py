"""The one function that creates the process group, for the arguments and the engine alike, and its end."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hftrain.errors import HardwareError
from hftrain.hardware.vendors import PACKAGES, load
from hftrain.hardware.world import World, read_world

logger = logging.getLogger(__name__)

_DEFAULT_BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
_HOLDER = "torch.distributed.nn.functional"
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class _OurGroup:
    group: Any
    timeout_s: float


_ours: list[_OurGroup] = []


def ensure_process_group(backend: str | None, timeout_s: float, device: torch.device) -> None:
    """Create the process group of this run, or check the one that exists. All ranks must call this.

    Nothing happens in a single process. A group that we create is destroyed at exit (gloo otherwise aborts the
    process there, in up to three of four runs) or by `shutdown`; a group that other code created is used, never
    destroyed.

    Args:
        backend: "gloo", "nccl", ...; None takes the existing group's, or the one that suits the device.
        timeout_s: how long a collective may wait; ``ddp_timeout`` of the arguments.
        device: the device of this process.

    Raises:
        HardwareError: the group that exists contradicts what is asked for, or none can be created.
    """
    world = read_world()
    _import_what_would_hold_the_group()
    if _is_initialized():
        _check_existing(backend, timeout_s, world)
    elif world.world_size > 1:
        _load_backend(backend)
        _create(backend or _DEFAULT_BACKENDS.get(device.type, "gloo"), timeout_s, device, world)


def shutdown() -> None:
    """Destroy the process group if we created it and it is still the current one; otherwise do nothing.

    For the end of a process: torchrun's store keeps the old addresses, so a second gloo group may fail to connect.
    """
    while _ours:
        if _is_current(_ours.pop()):
            dist.destroy_process_group()


@contextmanager
def first(is_first: bool) -> Iterator[None]:
    """Run the block on the process that is first, then on all others: for work that leaves a cache behind.

    All ranks must enter this. Without a process group it does nothing.
    """
    if not _is_initialized():
        yield
        return
    if not is_first:
        dist.barrier()
    try:
        yield
    finally:
        if is_first:
            dist.barrier()


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _import_what_would_hold_the_group() -> None:
    """Import, while no default group can be seen, the torch module that Fabric would import later.

    Its functions take the default group as a default argument. Imported after the group was made they would hold it
    beyond `destroy_process_group`, its threads would outlive the interpreter, and the process would abort at exit
    ("terminate called without an active exception") in about one run of twenty.
    """
    if not dist.is_available() or _HOLDER in sys.modules:
        return
    existing = dist.GroupMember.WORLD
    dist.GroupMember.WORLD = None
    try:
        importlib.import_module(_HOLDER)
    finally:
        dist.GroupMember.WORLD = existing


def _is_current(made: _OurGroup) -> bool:
    return _is_initialized() and dist.group.WORLD is made.group


def _create(backend: str, timeout_s: float, device: torch.device, world: World) -> None:
    if not dist.is_available():
        raise HardwareError(
            f"{world.world_size} processes were started, but this torch build ({torch.__version__}) has no "
            "torch.distributed. Install one that has it, or start a single process."
        )
    unknown = [name for name in _backend_names(backend) if not dist.is_backend_available(name)]
    if unknown:
        raise HardwareError(
            f"ddp_backend={backend!r} was asked for, but this torch build ({torch.__version__}) has no {unknown[0]!r}. "
            "Set ddp_backend=None for the one that suits the device (gloo for CPU, nccl for CUDA)."
        )
    missing = [name for name in _RENDEZVOUS if not os.environ.get(name)]
    if missing:
        raise HardwareError(f"{', '.join(missing)} is not set. Start the script with torchrun, which sets it.")
    bound: dict[str, Any] = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if "nccl" in backend:
            bound["device_id"] = device
    try:
        dist.init_process_group(
            backend,
            rank=world.process_index,
            world_size=world.world_size,
            timeout=timedelta(seconds=timeout_s),
            **bound,
        )
    except (RuntimeError, ValueError) as error:
        raise HardwareError(
            f"The process group could not be created with ddp_backend={backend!r} for {world.world_size} processes on "
            f"{device.type}: {error}. Check that MASTER_ADDR={os.environ['MASTER_ADDR']} and "
            f"MASTER_PORT={os.environ['MASTER_PORT']} can be reached, and that every process was started."
        ) from error
    _ours.append(_OurGroup(group=dist.group.WORLD, timeout_s=timeout_s))


def _load_backend(backend: str | None) -> None:
    """Import what registers a vendor's backend with torch."""
    for name in _backend_names(backend or ""):
        if name in PACKAGES:
            load(name)


def _backend_names(backend: str) -> list[str]:
    """The parts of "gloo" or of "cpu:gloo,cuda:nccl"."""
    return [part.split(":")[-1] for part in backend.split(",")]


def _check_existing(backend: str | None, timeout_s: float, world: World) -> None:
    existing = dist.get_backend()
    ours = next((made for made in _ours if _is_current(made)), None)
    creator = "an earlier run in this process" if ours else "other code"
    if backend is not None and backend != existing:
        raise HardwareError(
            f"ddp_backend={backend!r} was asked for, but {creator} already created the process group with "
            f"{existing!r}. Set ddp_backend={existing!r}: a process has one group, for all its runs."
        )
    there = (dist.get_rank(), dist.get_world_size())
    if there != (world.process_index, world.world_size):
        raise HardwareError(
            f"{creator.capitalize()} created a process group in which this is rank {there[0]} of {there[1]}, but the "
            f"environment says rank {world.process_index} of {world.world_size}. Start with torchrun, or set RANK, "
            "LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE to match."
        )
    if ours is not None and ours.timeout_s != timeout_s:
        raise HardwareError(
            f"ddp_timeout={timeout_s:g} was asked for, but {creator} created the process group with "
            f"{ours.timeout_s:g} s. Set ddp_timeout={ours.timeout_s:g}: a process has one group, for all its runs."
        )
    if ours is None:
        logger.info("Using the process group (%s) that other code created; ddp_timeout does not apply to it.", existing)


atexit.register(shutdown)
