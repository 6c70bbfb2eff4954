"""What the arguments and the place of this process say together: batch sizes, ranks, the device."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from hftrain.hardware.world import read_world
from hftrain.types.choices import ParallelMode

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("hftrain")

LEVELS = {
    "detail": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class DerivedProperties:
    """Everything about a run that is computed rather than set; only three of these touch a device."""

    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    use_cpu: bool
    use_mps_device: bool
    tpu_num_cores: int | None
    ddp_backend: str | None
    ddp_timeout: int
    log_level: str
    log_level_replica: str
    log_on_each_node: bool
    save_on_each_node: bool
    warmup_steps: int
    warmup_ratio: float
    _n_gpu: int

    @property
    def train_batch_size(self) -> int:
        """Samples of a training batch on this process."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Samples of an evaluation batch on this process."""
        return self.per_device_eval_batch_size

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return read_world().world_size

    @property
    def process_index(self) -> int:
        """Which process this is, of all."""
        return read_world().process_index

    @property
    def local_process_index(self) -> int:
        """Which process this is, on its node."""
        return read_world().local_process_index

    @property
    def parallel_mode(self) -> ParallelMode:
        """Whether the run has several processes; one process uses one device."""
        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def should_log(self) -> bool:
        """Whether this process logs at ``log_level`` rather than at ``log_level_replica``."""
        world = read_world()
        return world.is_local_process_zero if self.log_on_each_node else world.is_world_process_zero

    @property
    def should_save(self) -> bool:
        """Whether this process writes models and checkpoints."""
        world = read_world()
        return world.is_local_process_zero if self.save_on_each_node else world.is_world_process_zero

    @property
    def ddp_timeout_delta(self) -> timedelta:
        """``ddp_timeout`` as a duration."""
        return timedelta(seconds=self.ddp_timeout)

    @property
    def place_model_on_device(self) -> bool:
        """Whether the model is moved to the device; a subclass may say no."""
        return True

    @property
    def device(self) -> torch.device:
        """The device of this process.

        Raises:
            HardwareError: there is no such device.
        """
        from hftrain.hardware.devices import resolve_device

        return resolve_device(accelerator_of(self), read_world())

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: one, or none on the CPU."""
        return self._n_gpu if self._n_gpu >= 0 else int(self.device.type != "cpu")

    def get_process_log_level(self) -> int:
        """Log level of this process; "passive" is the level that hftrain's logger has."""
        name = self.log_level if self.should_log else self.log_level_replica
        return LEVELS.get(name) or logger.getEffectiveLevel()

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Updates of the warm-up: ``warmup_steps``, or ``warmup_ratio`` of all, rounded up."""
        return self.warmup_steps if self.warmup_steps > 0 else math.ceil(num_training_steps * self.warmup_ratio)

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Run the block on the main process before all others, for work whose result is cached on disk.

        All ranks must call this. The others are let in also when the block raises.

        Args:
            local: the first process of every node goes first; False: the first process of all.
            desc: what is done, for the log.
        """
        world = read_world()
        if world.world_size == 1:
            yield
            return
        from hftrain.hardware.process_group import ensure_process_group, first

        ensure_process_group(self.ddp_backend, self.ddp_timeout, self.device)
        logger.debug("process %d: %s, the main process first", world.process_index, desc)
        with first(world.is_local_process_zero if local else world.is_world_process_zero):
            yield


def accelerator_of(args: DerivedProperties) -> str:
    """What the run computes on, in the engine's words: "cpu", "mps", "xla", or "auto" for the best there is."""
    if args.use_cpu:
        return "cpu"
    if args.tpu_num_cores is not None:
        return "xla"
    return "mps" if args.use_mps_device else "auto"
