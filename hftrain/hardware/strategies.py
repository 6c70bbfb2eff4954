"""Fabric's strategies, built by its connector with nothing read from the environment behind our back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hftrain.hardware.fabric import load_fabric
from hftrain.hardware.world import World

if TYPE_CHECKING:
    from lightning_fabric.connector import _Connector
    from lightning_fabric.plugins import Precision
    from lightning_fabric.strategies.strategy import Strategy


class StepRouter(nn.Module):
    """Stands inside DDP so that named steps go through its forward, where DDP readies its gradient hooks."""

    def __init__(self, module: nn.Module, steps: Mapping[str, Callable[..., Any]]) -> None:
        """Route to ``steps``, the callables that run methods of ``module``."""
        super().__init__()
        self.module = module
        self.steps = dict(steps)

    def forward(self, step: str, *args: Any, **kwargs: Any) -> Any:
        """Run the step of that name."""
        return self.steps[step](*args, **kwargs)


@functools.cache
def _connector_class() -> type[_Connector]:
    load_fabric()
    from lightning_fabric.connector import _Connector

    class ExplicitConnector(_Connector):
        """Fabric's connector without ``LT_ACCELERATOR``, ``LT_DEVICES`` and the like, which would silently win."""

        @staticmethod
        def _argument_from_env(name: str, current: Any, default: Any) -> Any:
            return current

    return ExplicitConnector


def make_strategy(
    device: torch.device, world: World, precision: Precision, *, ddp_options: Mapping[str, Any]
) -> Strategy:
    """Fabric's strategy for one device or, with several processes, for DDP.

    The cluster environment is torchrun's, given explicitly: SLURM variables alone would select Fabric's SLURM one.
    The strategy's ``setup_environment`` is not called: the process group exists already (`process_group`), and it
    would print a hint about matmul precision in every run.

    Args:
        device: the device of this process.
        world: the place of this process.
        precision: the plugin that the strategy's backward goes through.
        ddp_options: keyword arguments of `DistributedDataParallel`; those that are None are left to torch.
    """
    load_fabric()
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    if device.type == "cuda":
        torch.cuda.set_device(device)
    is_distributed = world.world_size > 1
    given = {name: value for name, value in ddp_options.items() if value is not None}
    connector = _connector_class()(
        accelerator="cpu" if device.type == "xla" else device.type,  # Fabric's own for TPUs starts processes
        strategy=DDPStrategy(**given) if is_distributed else SingleDeviceStrategy(device=device),
        devices=world.local_world_size,
        num_nodes=world.num_nodes,
        plugins=[precision, TorchElasticEnvironment() if is_distributed else LightningEnvironment()],
    )
    strategy: Strategy = connector.strategy
    return strategy
