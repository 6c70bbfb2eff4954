"""Engines in which a vendor's package takes part: NVIDIA's Apex, Intel's extension for PyTorch, torch_xla."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hftrain.errors import HardwareError
from hftrain.hardware.engine import Engine
from hftrain.hardware.settings import EngineSettings
from hftrain.hardware.vendors import load
from hftrain.hardware.xla import run_recorded


class ApexEngine(Engine):
    """An engine whose autocast and loss scale are Apex's, at ``settings.apex_opt_level``."""

    def __init__(self, settings: EngineSettings) -> None:
        self._amp = load("apex")
        self._level = settings.apex_opt_level
        super().__init__(replace(settings, precision="fp32"))

    def wrap(self, module: nn.Module, *, steps: Sequence[str] = (), move: bool = True) -> nn.Module:
        """Let Apex patch module and optimizer, in place, then wrap. The optimizer must be there."""
        if self._optimizer is None:
            raise HardwareError("Apex patches module and optimizer together. Call engine.make_optimizer before wrap.")
        self.place(module, move=move)
        self._amp.initialize(module, self._optimizer, opt_level=self._level)
        return super().wrap(module, steps=steps, move=move)

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Add the gradients of the loss, scaled and unscaled by Apex."""
        with self._amp.scale_loss(loss, self._optimizer) as scaled:
            scaled.backward(**options)

    def clip(self, max_norm: float) -> Tensor | None:
        """Clip the gradients of the fp32 weights, and return their norm before."""
        return nn.utils.clip_grad_norm_(self._amp.master_params(self._optimizer), max_norm)

    def optimizer_step(self, optimizer: Optimizer) -> bool:
        """Step, and say whether the weights moved: after an overflow Apex has replaced one step by a skip."""
        skips = getattr(getattr(optimizer, "_amp_stash", None), "already_patched", False)
        optimizer.step()
        self.step_was_skipped = bool(skips)
        return not skips

    def scaler_state(self) -> dict[str, Any] | None:
        """Apex's loss scales."""
        state: dict[str, Any] = self._amp.state_dict()
        return state

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Restore what `scaler_state` returned."""
        self._amp.load_state_dict(state)


class IpexEngine(Engine):
    """An engine whose module and optimizer Intel's extension optimizes, in place, before they are wrapped."""

    def __init__(self, settings: EngineSettings) -> None:
        self._ipex = load("ipex")
        super().__init__(settings)

    def wrap(self, module: nn.Module, *, steps: Sequence[str] = (), move: bool = True) -> nn.Module:
        """Optimize for training, then wrap.

        Raises:
            HardwareError: the extension made another module or optimizer instead of changing this one.
        """
        self.place(module, move=move)
        module.train()  # it fuses for inference otherwise
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        optimizer = self._optimizer
        changed = self._ipex.optimize(module, dtype=dtype, optimizer=optimizer, inplace=True, level="O1")
        pair = changed if optimizer is not None else (changed, None)
        if pair[0] is not module or pair[1] is not optimizer:
            raise HardwareError(
                f"intel_extension_for_pytorch {getattr(self._ipex, '__version__', '')} returned another model or "
                "optimizer although inplace=True was asked for. Set use_ipex=False."
            )
        return super().wrap(module, steps=steps, move=move)


class XlaEngine(Engine):
    """An engine on one core of a TPU. Operations are recorded; each optimizer step runs what was recorded."""

    def optimizer_step(self, optimizer: Optimizer) -> bool:
        """Step, and run what was recorded since the last one."""
        stepped = super().optimizer_step(optimizer)
        self.synchronize()
        return stepped

    def synchronize(self) -> None:
        """Run what was recorded."""
        run_recorded()
