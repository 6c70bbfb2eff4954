"""Adafactor, with the settings and the state names of the reference.

torch ships an optimizer of the same name that is another algorithm (it scales by the weights' size and decays
differently), so a script that asks for `adafactor` would train differently with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hftrain.errors import ConfigurationError

_HALF = (torch.float16, torch.bfloat16)


class Adafactor(Optimizer):
    """Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5).

    For a parameter of two or more dimensions the second moment is kept as one vector of row means and one of
    column means over the last two of them, so its memory is the sum of the sides and not their product.
    Half-precision parameters are updated in fp32 and rounded once, at the end of the step. No host read of a
    device value.

    Args:
        params: parameters or parameter groups.
        lr: the step size; None with ``relative_step=True``, where it follows from the number of steps.
        eps: the paper's two constants: added to the squared gradient, and the least size of a parameter that
            ``scale_parameter`` assumes.
        clip_threshold: largest root mean square of an update, before it is multiplied by the step size.
        decay_rate: the second moment decays with ``1 - step ** decay_rate``.
        beta1: decay of the first moment; None keeps no first moment.
        weight_decay: decoupled, multiplied by the step size.
        scale_parameter: multiply the step size by the root mean square of the parameter.
        relative_step: step size ``min(1e-2, 1 / sqrt(step))``.
        warmup_init: with ``relative_step``, at most ``1e-6 * step``.

    Raises:
        ConfigurationError: ``lr`` and ``relative_step`` are both set or both unset, or ``warmup_init`` stands
            without ``relative_step``.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        if lr is not None and relative_step:
            raise ConfigurationError(
                f"Adafactor was given lr={lr} and relative_step=True, which computes the step size by itself. "
                "Set relative_step=False, or leave lr out."
            )
        if lr is None and not relative_step:
            raise ConfigurationError("Adafactor with relative_step=False has no step size. Set lr.")
        if warmup_init and not relative_step:
            raise ConfigurationError(
                "Adafactor's warmup_init=True warms up the relative step, and relative_step=False. "
                "Set relative_step=True, or use a schedule with warm-up."
            )
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: computes the loss again and returns it.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; moments stay in the precision they were saved in.

        torch casts every loaded tensor to the parameter's type, which would round the fp32 moments of a bf16
        parameter and make a resumed run differ.
        """
        super().load_state_dict(state_dict)
        saved_ids = (saved_id for group in state_dict["param_groups"] for saved_id in group["params"])
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        for saved_id, parameter in zip(saved_ids, parameters, strict=True):
            for key, value in state_dict["state"].get(saved_id, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][key] = value.to(parameter.device)

    def learning_rates(self) -> list[float | Tensor | None]:
        """The step size of each group's first parameter at the last step; None before that parameter's first."""
        return [self._last_step_size(group) for group in self.param_groups]

    def _last_step_size(self, group: dict[str, Any]) -> float | Tensor | None:
        state = self.state.get(group["params"][0]) if group["params"] else None
        return _step_size(group, state) if state else None

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if gradient.is_sparse:
            raise RuntimeError("Adafactor does not support sparse gradients. Set sparse=False on the embedding.")
        gradient = gradient.float() if gradient.dtype in _HALF else gradient
        weights = parameter.float() if parameter.dtype in _HALF else parameter

        state = self.state[parameter]
        if not state:
            state.update(_new_state(gradient, has_first_moment=group["beta1"] is not None))
        state["step"] += 1
        if group["scale_parameter"]:
            state["RMS"] = _root_mean_square(weights)

        step_size = _step_size(group, state)
        update = _normalised(gradient, state, beta2=1.0 - state["step"] ** group["decay_rate"], eps=group["eps"][0])
        update.div_((_root_mean_square(update) / group["clip_threshold"]).clamp_(min=1.0))
        update.mul_(step_size)
        if group["beta1"] is not None:
            update = state["exp_avg"].mul_(group["beta1"]).add_(update, alpha=1.0 - group["beta1"])

        if group["weight_decay"]:
            weights.sub_(weights * (group["weight_decay"] * step_size))
        weights.sub_(update)
        if weights is not parameter:
            parameter.copy_(weights)


class AdafactorSchedule(LRScheduler):
    """Shows the step sizes that an ``Adafactor`` with ``relative_step=True`` computes; it changes nothing.

    Args:
        optimizer: an ``Adafactor``.
        initial_lr: what is shown before the first step.
    """

    def __init__(self, optimizer: Adafactor, initial_lr: float = 0.0) -> None:
        self.adafactor = optimizer
        self.initial_lr = initial_lr
        super().__init__(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Count the step."""
        self.last_epoch += 1

    def get_last_lr(self) -> list[float | Tensor]:
        """The step size of each group's first parameter; tensors with ``scale_parameter``."""
        return [self.initial_lr if rate is None else rate for rate in self.adafactor.learning_rates()]

    def get_lr(self) -> list[float | Tensor]:
        """The same as ``get_last_lr``."""
        return self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """The count of steps; the step sizes themselves are in the optimizer's state."""
        return {"last_epoch": self.last_epoch}


def _new_state(gradient: Tensor, *, has_first_moment: bool) -> dict[str, Any]:
    """The state before the first step. The names are the reference's, whose checkpoints must load."""
    state: dict[str, Any] = {"step": 0}
    if has_first_moment:
        state["exp_avg"] = torch.zeros_like(gradient)
    if gradient.dim() >= 2:
        state["exp_avg_sq_row"] = gradient.new_zeros(gradient.shape[:-1])
        state["exp_avg_sq_col"] = gradient.new_zeros(gradient.shape[:-2] + gradient.shape[-1:])
    else:
        state["exp_avg_sq"] = torch.zeros_like(gradient)
    return state


def _normalised(gradient: Tensor, state: dict[str, Any], *, beta2: float, eps: float) -> Tensor:
    """The gradient over the root of its second moment, which is updated first; a new tensor of its shape."""
    squared = gradient.square().add_(eps)
    if gradient.dim() < 2:
        moment: Tensor = state["exp_avg_sq"].mul_(beta2).add_(squared, alpha=1.0 - beta2)
        return moment.rsqrt().mul_(gradient)
    rows: Tensor = state["exp_avg_sq_row"].mul_(beta2).add_(squared.mean(dim=-1), alpha=1.0 - beta2)
    columns: Tensor = state["exp_avg_sq_col"].mul_(beta2).add_(squared.mean(dim=-2), alpha=1.0 - beta2)
    # The rank-one estimate is rows x columns / mean(rows); the roots are taken of the factors, not of the product.
    row_factor = (rows / rows.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    return (row_factor * columns.rsqrt().unsqueeze(-2)).mul_(gradient)


def _step_size(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    """The step size before decay and moments; a tensor with ``scale_parameter``, so that nothing is read."""
    size: float = group["lr"]
    if group["relative_step"]:
        ceiling = 1e-6 * state["step"] if group["warmup_init"] else 1e-2
        size = min(ceiling, 1.0 / math.sqrt(state["step"]))
    if not group["scale_parameter"]:
        return size
    scale: Tensor = state["RMS"].clamp(min=group["eps"][1])
    return scale * size


def _root_mean_square(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor)
    return norm / math.sqrt(tensor.numel())
