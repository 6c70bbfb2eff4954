"""Which process this is, read from the variables that torchrun sets. Imports neither torch nor Fabric."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hftrain.errors import HardwareError

_REQUIRED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, kw_only=True)
class World:
    """The place of this process among all processes of the run."""

    process_index: int = 0
    local_process_index: int = 0
    world_size: int = 1
    local_world_size: int = 1
    num_nodes: int = 1

    @property
    def is_world_process_zero(self) -> bool:
        """Whether this is the one process of the whole run that writes and prints."""
        return self.process_index == 0

    @property
    def is_local_process_zero(self) -> bool:
        """Whether this is the first process of its machine."""
        return self.local_process_index == 0


def read_world(environ: Mapping[str, str] | None = None) -> World:
    """Read the world from torchrun's variables; without them, or with ``WORLD_SIZE=1``, it is this process alone.

    Only torchrun's names are read: ``SLURM_*`` and ``LT_*`` change nothing. A ``WORLD_SIZE`` without ``RANK`` and
    ``LOCAL_RANK`` (job operators set it on the container, not on the process) means no launcher ran, which is an
    error: each process would silently train alone.

    Args:
        environ: the variables; those of this process by default.

    Raises:
        HardwareError: ``WORLD_SIZE`` is above 1 and the other variables are missing, malformed or contradictory.
    """
    environ = os.environ if environ is None else environ
    if environ.get("WORLD_SIZE", "1").strip() == "1":
        return World()
    missing = [name for name in _REQUIRED if not environ.get(name)]
    if missing:
        raise HardwareError(
            f"WORLD_SIZE={environ['WORLD_SIZE']} says that there are several processes, but {', '.join(missing)} "
            "is not set. Start the script with torchrun (python -m torch.distributed.run), or unset WORLD_SIZE."
        )
    rank, local_rank, size, local_size = (_integer(environ, name) for name in _REQUIRED)
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size) or size % local_size:
        raise HardwareError(
            f"RANK={rank}, LOCAL_RANK={local_rank}, WORLD_SIZE={size}, LOCAL_WORLD_SIZE={local_size} contradict each "
            "other: ranks count from 0, and every node must run the same number of processes. Start with torchrun."
        )
    return World(
        process_index=rank,
        local_process_index=local_rank,
        world_size=size,
        local_world_size=local_size,
        num_nodes=size // local_size,
    )


def _integer(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError as error:
        raise HardwareError(f"{name}={environ[name]!r} is not an integer. Start with torchrun.") from error
