"""Device memory: how much a process uses, and whether an error says that there was too little."""

from __future__ import annotations

import torch

from hftrain.errors import HftrainError, TaskError

_SAYINGS = (
    "out of memory",  # CUDA and MPS where torch raises no OutOfMemoryError, and libraries beside torch
    "can't allocate memory",  # torch's allocator on the CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",  # what cuDNN says of a workspace that it could not have
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, of the device or the host, ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, HftrainError):  # a callback's error, say, tells what was raised in it
        return isinstance(error, TaskError) and error.__cause__ is not None and is_out_of_memory(error.__cause__)
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


class DeviceMemory:
    """What torch's allocator holds on one device, in bytes; a CPU has no such counter."""

    def __init__(self, device: torch.device) -> None:
        """Read the counters of ``device``."""
        self._device = device
        self.is_counted = device.type in ("cuda", "mps")

    def allocated(self) -> int:
        """Bytes in tensors now; 0 where nothing is counted."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return torch.mps.current_allocated_memory() if self._device.type == "mps" else 0

    def peak(self) -> int | None:
        """Most bytes in tensors since `start`; None where the device keeps no such count."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None

    def start(self) -> None:
        """Let the peak begin anew; other readers of torch's one peak counter see that too."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
