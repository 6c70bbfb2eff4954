"""What stands around a module's method when a step calls it: compiler, context, DDP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def compiled(call: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the call compiled; a module in place, so that its state dict keeps its names."""
    if isinstance(call, nn.Module):
        call.compile(**options)
        return call
    function: Callable[..., Any] = torch.compile(call, **options)
    return function


def inside(context: Callable[[], AbstractContextManager[Any]], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the call made in a new ``context()`` each time."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return call(*args, **kwargs)

    return run


def through(ddp: DistributedDataParallel, name: str) -> Callable[..., Any]:
    """Return what runs the named step of a `StepRouter` inside DDP."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return ddp(name, *args, **kwargs)

    return run
