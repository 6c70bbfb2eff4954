"""Number formats: mixed-precision contexts, the fp16 loss scaler, casts for evaluation, and tf32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler, OptState

from hftrain.errors import HardwareError
from hftrain.hardware.fabric import load_fabric
from hftrain.hardware.tree import map_tree

if TYPE_CHECKING:
    from lightning_fabric.plugins import MixedPrecision, Precision

PrecisionName = Literal["fp32", "bf16", "fp16"]
HalfName = Literal["bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMPERE = 8  # compute capability of the first NVIDIA generation with tf32 and bf16 units


class LossScaler(GradScaler):
    """Torch's loss scaler, asked whether it stepped without a second read of the device."""

    def unscale_once(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, unless that was done since the last step."""
        if self._per_optimizer_states[id(optimizer)]["stage"] is OptState.READY:
            self.unscale_(optimizer)

    def step_if_finite(self, optimizer: torch.optim.Optimizer) -> bool:
        """Step unless a gradient is inf or nan, then adapt the scale. The one host read of an fp16 step.

        Optimizers that unscale by themselves (fused ones) are stepped on unscaled gradients too: otherwise the
        decision would be made inside their kernel, and reading it would need a second synchronisation.

        Returns:
            Whether the optimizer stepped.
        """
        self.unscale_once(optimizer)
        found: dict[torch.device, Tensor] = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        is_finite = not sum(flag.item() for flag in found.values())
        if is_finite:
            optimizer.step()
        if found:
            self.update()
        else:  # no gradient at all: nothing to learn about the scale
            self._per_optimizer_states.pop(id(optimizer))
        return is_finite


@functools.cache
def _forward_only_class() -> type[MixedPrecision]:
    load_fabric()
    from lightning_fabric.plugins import MixedPrecision

    class ForwardOnlyPrecision(MixedPrecision):
        """Fabric's mixed precision without its casts: converting inputs turns a label of 2023.4 into 2024.0."""

        def convert_input(self, data: Any) -> Any:
            """Leave the batch alone; autocast casts where an operation wants it."""
            return data

        def convert_output(self, data: Any) -> Any:
            """Leave the outputs as autocast made them."""
            return data

    return ForwardOnlyPrecision


def make_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Fabric's precision plugin for ``name``: used for its forward context and, in fp16, for scaling the loss."""
    load_fabric()
    if name == "fp32":
        from lightning_fabric.plugins import Precision

        return Precision()
    mixed = _forward_only_class()
    if name == "bf16":
        return mixed("bf16-mixed", device.type)
    return mixed("16-mixed", device.type, scaler=LossScaler(device.type))


def check_half_precision(name: HalfName, device: torch.device) -> None:
    """Refuse what the device cannot do, instead of letting Fabric replace fp16 by bf16 with a warning.

    Raises:
        HardwareError: fp16 on CPU, or bf16 on a GPU without support for it.
    """
    if name == "fp16" and device.type == "cpu":
        raise HardwareError(
            "fp16=True was asked for, but training runs on CPU, where fp16 mixed precision does not train. "
            "Set bf16=True instead, or use a GPU."
        )
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise HardwareError(
            f"bf16 was asked for, but {torch.cuda.get_device_name(device)} does not support it (Ampere or newer does). "
            "Set fp16=True instead."
        )


def check_trainable_in_fp16(module: nn.Module) -> None:
    """Refuse a module whose trainable weights are fp16 already: their gradients cannot be unscaled.

    Raises:
        HardwareError: names the first such parameter.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            raise HardwareError(
                f"fp16=True scales the loss and needs fp32 weights, but the trainable parameter {name!r} is fp16. "
                "Load the model in float32 (torch_dtype=torch.float32), or train with bf16=True."
            )


def float_outputs(outputs: Any) -> Any:
    """Turn bf16 and fp16 tensors in nested outputs to fp32; anything else comes back as the same object."""
    return map_tree(outputs, _to_float)


def _to_float(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16):
        return leaf.float()
    return leaf


@contextmanager
def cast_weights(module: nn.Module, name: HalfName, device: torch.device) -> Iterator[None]:
    """Hold ``module`` in half precision, with autocast on for fp32 inputs; give back the very same weights after.

    The parameter objects are exchanged, not their data: assigning ``.data`` of another type would drop the gradient
    accumulators that DDP's hooks sit on, and training after the evaluation would stop averaging gradients.
    Costs half the weights in extra memory while the context is open.
    """
    dtype = _DTYPES[name]
    originals: list[tuple[nn.Module, str, Tensor]] = []
    casts: dict[int, Tensor] = {}
    for owner in module.modules():
        for attribute, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
            if tensor is None or not tensor.is_floating_point() or tensor.dtype == dtype:
                continue
            if id(tensor) not in casts:  # tied weights stay tied
                cast = tensor.detach().to(dtype)
                casts[id(tensor)] = nn.Parameter(cast, requires_grad=False) if _is_parameter(tensor) else cast
            originals.append((owner, attribute, tensor))
    try:
        for owner, attribute, tensor in originals:
            setattr(owner, attribute, casts[id(tensor)])
        with torch.autocast(device.type, dtype=dtype):
            yield
    finally:
        for owner, attribute, tensor in originals:
            setattr(owner, attribute, tensor)


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def set_tf32(enabled: bool) -> Callable[[], None]:
    """Switch tf32 for matrix products and convolutions, process-wide.

    Torch refuses to read its old switch after its new one was used, so whichever the process uses already is used.

    Returns:
        A function that puts the switches back to what they were.
    """
    try:
        switches = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
        before = [getattr(owner, name) for owner, name in switches]
        value: bool | str = enabled
    except RuntimeError:
        cudnn = torch.backends.cudnn
        owners = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)  # type: ignore[attr-defined]
        switches = [(owner, "fp32_precision") for owner in owners]
        before = [getattr(owner, name) for owner, name in switches]
        value = "tf32" if enabled else "ieee"
    for owner, name in switches:
        setattr(owner, name, value)

    def restore() -> None:
        for (owner, name), old in zip(switches, before, strict=True):
            setattr(owner, name, old)

    return restore


def tf32_is_available() -> bool:
    """Whether this process sees an NVIDIA GPU of the Ampere generation or newer."""
    return (
        torch.cuda.is_available()
        and torch.version.cuda is not None
        and torch.cuda.get_device_properties(torch.cuda.current_device()).major >= _AMPERE
    )


def apply_tf32(enabled: bool | None) -> Callable[[], None] | None:
    """Set tf32 as asked; None leaves torch's switches alone.

    Returns:
        The function that restores the switches, or None when nothing was changed.

    Raises:
        HardwareError: tf32 was asked for and there is no GPU that has it.
    """
    if enabled is None:
        return None
    if tf32_is_available():
        return set_tf32(enabled)
    if enabled:
        raise HardwareError("tf32=True needs an NVIDIA GPU of the Ampere generation or newer. Set tf32=None.")
    return None
