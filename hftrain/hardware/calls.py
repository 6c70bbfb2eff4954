"""What stands around a module's method when a step calls it: compiler, context, DDP."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def compiled(call: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the call compiled; a module in place, so that its state dict keeps its names."""
    if isinstance(call, nn.Module):
        # Module.compile puts the module's bound method into the module: only the garbage collector would free it.
        call._compiled_call_impl = _of_module(call, torch.compile(type(call)._call_impl, **options))
        return call
    function: Callable[..., Any] = torch.compile(call, **options)
    return function


def _of_module(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the module as first argument, which is not kept alive."""
    own = weakref.ref(module)

    def run(*args: Any, **kwargs: Any) -> Any:
        return function(own(), *args, **kwargs)

    return run


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
