"""What an engine is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hftrain.hardware.precision import HalfName, PrecisionName

VendorName = Literal["apex", "ipex", "xla"]


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the engine is asked for, resolved once from the arguments."""

    accelerator: str = "auto"
    """"auto", "cpu", "cuda" or "mps"."""
    precision: PrecisionName = "fp32"
    full_eval: HalfName | None = None
    """Number format of the weights inside `Engine.full_eval`."""
    tf32: bool | None = None
    """None leaves torch's switches alone."""
    ddp_backend: str | None = None
    ddp_timeout_s: float = 1800
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    defer_sync: bool = False
    """Gradients are averaged by `Engine.average_gradients` after a step's passes instead of within the last."""
    non_blocking: bool = False
    """Copy batches without waiting; helps from pinned memory to CUDA, ignored elsewhere."""
    compile: bool = False
    compile_backend: str | None = None
    compile_mode: str | None = None
    vendor: VendorName | None = None
    """Whose package takes part: Apex's autocast, Intel's optimizations, or a TPU's core."""
    apex_opt_level: str = "O1"
