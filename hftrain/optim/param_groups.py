"""Which parameters decay, and the two groups an optimizer gets them in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

# Matched on the lower-cased full name, anywhere in it: `encoder.LayerNorm.weight` and `bias_net.weight` both count.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|[._])norm(?:\.|$)")


def decay_parameter_names(module: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to.

    Left out are the parameters of ``nn.LayerNorm`` layers, and those in whose name "bias", "layernorm" or
    "rmsnorm" occurs, or a part that is "norm" or ends in "_norm". Every other normalisation layer is known by its
    name only: the weight of an ``nn.BatchNorm1d`` called ``bn`` decays, as it does in the reference.

    Args:
        module: any module. A tied parameter is listed under each of its names.

    Returns:
        Names, those of child modules before a module's own.
    """
    return [name for name in _names(module, prefix="") if not _NO_DECAY.search(name.lower())]


def _names(module: nn.Module, *, prefix: str) -> Iterator[str]:
    for child_name, child in module.named_children():
        if not isinstance(child, nn.LayerNorm):
            yield from _names(child, prefix=f"{prefix}{child_name}.")
    for name, _ in module.named_parameters(recurse=False):
        yield prefix + name


def param_groups(
    module: nn.Module, weight_decay: float, *, decay_names: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """The trainable parameters of ``module`` in two groups: those that decay, then those that don't.

    Both groups are always there, an empty one too, so that an optimizer's state keeps its shape when layers are
    frozen. The order inside a group is that of ``module.named_parameters()``, and a tied parameter comes once,
    under its first name.

    Args:
        module: the module whose parameters require gradients where they are to be trained.
        weight_decay: of the first group; the second has 0.0.
        decay_names: names of the first group; the default is ``decay_parameter_names(module)``.
    """
    decays = set(decay_parameter_names(module) if decay_names is None else decay_names)
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for name, parameter in trainable if name in decays], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trainable if name not in decays], "weight_decay": 0.0},
    ]
