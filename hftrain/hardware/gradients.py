"""Clipping and clearing gradients over a parameter list that is made once, not once a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Where torch.nn.utils.clip_grad_norm_ itself takes the foreach kernels.
_FOREACH_DEVICES = ("cpu", "cuda")


class GradientList:
    """The parameters whose gradients a step clips and clears."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Keep the parameters, each once, in the given order."""
        self.parameters = list(dict.fromkeys(parameters))
        places = {(parameter.device, parameter.dtype) for parameter in self.parameters}
        self._is_uniform = (
            len(places) == 1
            and next(iter(places))[0].type in _FOREACH_DEVICES
            and all(type(parameter) is nn.Parameter for parameter in self.parameters)
        )

    def clip(self, max_norm: float) -> Tensor | None:
        """Scale the gradients so that their joint 2-norm is at most ``max_norm``, without a host read.

        Bit-equal to ``torch.nn.utils.clip_grad_norm_(parameters, max_norm)``, which lists, groups and checks the
        tensors again at every call (30 us for ten parameters). A non-finite norm raises nothing.

        Returns:
            The norm before clipping, 0-d, on the device; None when no parameter has a gradient.
        """
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not grads:
            return None
        if not self._is_uniform:
            return torch.nn.utils.clip_grad_norm_(self.parameters, max_norm, error_if_nonfinite=False)
        with torch.no_grad():
            norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, 2.0)), 2.0)
            torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def clear(self) -> None:
        """Set every gradient to None, as ``optimizer.zero_grad()`` does."""
        for parameter in self.parameters:
            parameter.grad = None
