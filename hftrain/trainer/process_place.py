"""Where this process stands, under the names of accelerate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hftrain.hardware.engine import Engine


@dataclass(frozen=True, kw_only=True)
class AcceleratorState:
    """Where this process stands; ``deepspeed_plugin`` and ``fsdp_plugin`` are None."""

    device: torch.device
    distributed_type: str
    mixed_precision: str
    num_processes: int
    process_index: int
    local_process_index: int
    is_main_process: bool
    is_local_main_process: bool
    is_last_process: bool
    use_distributed: bool
    deepspeed_plugin: None = None
    fsdp_plugin: None = None


class ProcessPlace(ABC):
    """Device, precision and rank of this process, asked of the engine each time."""

    @property
    def state(self) -> AcceleratorState:
        """Device, precision and place of this process, as they are now."""
        engine = self._engine
        return AcceleratorState(
            device=engine.device,
            distributed_type=self.distributed_type,
            mixed_precision=self.mixed_precision,
            num_processes=engine.world_size,
            process_index=engine.process_index,
            local_process_index=engine.local_process_index,
            is_main_process=engine.is_world_process_zero,
            is_local_main_process=engine.is_local_process_zero,
            is_last_process=self.is_last_process,
            use_distributed=engine.world_size > 1,
        )

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._engine.device

    @property
    def num_processes(self) -> int:
        """How many processes train together."""
        return self._engine.world_size

    @property
    def process_index(self) -> int:
        """The rank of this process."""
        return self._engine.process_index

    @property
    def local_process_index(self) -> int:
        """The rank of this process on its machine."""
        return self._engine.local_process_index

    @property
    def is_main_process(self) -> bool:
        """Whether this is the first process of all."""
        return self._engine.is_world_process_zero

    @property
    def is_local_main_process(self) -> bool:
        """Whether this is the first process of its machine."""
        return self._engine.is_local_process_zero

    @property
    def is_last_process(self) -> bool:
        """Whether this is the last process of all."""
        return self._engine.process_index == self._engine.world_size - 1

    @property
    def use_distributed(self) -> bool:
        """Whether there are several processes."""
        return self._engine.world_size > 1

    @property
    def distributed_type(self) -> str:
        """ "NO", "MULTI_CPU" or "MULTI_GPU"; equal to the members of accelerate's enum of that name."""
        if self._engine.world_size == 1:
            return "NO"
        return "MULTI_GPU" if self._engine.device.type == "cuda" else "MULTI_CPU"

    @property
    def mixed_precision(self) -> str:
        """ "no", "bf16" or "fp16"."""
        precision = self._engine.settings.precision
        return "no" if precision == "fp32" else precision

    @property
    def native_amp(self) -> bool:
        """Whether autocast is on."""
        return self.mixed_precision != "no"

    @property
    @abstractmethod
    def _engine(self) -> Engine:
        """The engine that is asked."""
