"""TPUs, through torch_xla."""

from __future__ import annotations

import importlib

import torch

from hftrain.hardware.vendors import load


def xla_device() -> torch.device:
    """Return this process's core."""
    package = load("xla")
    if hasattr(package, "device"):
        return torch.device(package.device())
    return torch.device(importlib.import_module("torch_xla.core.xla_model").xla_device())


def run_recorded() -> None:
    """Run the operations that were recorded since the last call."""
    package = load("xla")
    if hasattr(package, "sync"):
        package.sync()
    else:
        importlib.import_module("torch_xla.core.xla_model").mark_step()


def metrics_report() -> str:
    """Return torch_xla's counters and timings as text."""
    load("xla")
    return str(importlib.import_module("torch_xla.debug.metrics").metrics_report())
