"""The gradients of a step that a run was stopped inside, as a part of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hftrain.checkpoint.checks import check_rng
from hftrain.checkpoint.contents import Part, parameter_names, place_name, tree_of, tree_part
from hftrain.errors import TornCheckpointError


def gradients_part(module: nn.Module, optimizer: Optimizer, *, drawn_from: Mapping[str, Any] | None) -> Part:
    """The gradients that are there now, by parameter name; every rank gives its own.

    Args:
        module: its parameters are named as it names them.
        optimizer: its parameters that the module lacks are named by their place.
        drawn_from: the random state from which the step's micro-batches were drawn, if all were drawn before the first.
    """
    named = _named(module, optimizer)
    gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    return tree_part("grads", {"gradients": gradients, "drawn_from": drawn_from}, per_rank=True)


def put_gradients(part: Part, module: nn.Module, optimizer: Optimizer) -> None:
    """Give the parameters the gradients of :func:`gradients_part`; those without one lose what they have.

    Raises:
        TornCheckpointError: the part holds something else, or gradients of other parameters.
    """
    gradients, parameters = _tree(part)["gradients"], dict(_named(module, optimizer))
    if not isinstance(gradients, dict):
        raise TornCheckpointError("The checkpoint's gradients are not by name.")
    for name, gradient in gradients.items():
        parameter = parameters.get(name)
        if parameter is None or not isinstance(gradient, Tensor) or gradient.shape != parameter.shape:
            raise TornCheckpointError(f"The checkpoint has a gradient {name!r} that no parameter of this run takes.")
    for name, parameter in parameters.items():
        gradient = gradients.get(name)
        parameter.grad = None if gradient is None else gradient.to(device=parameter.device, dtype=parameter.dtype)


def drawn_from(part: Part) -> dict[str, Any] | None:
    """The random state of :func:`gradients_part`. Raises TornCheckpointError."""
    state = _tree(part).get("drawn_from")
    return None if state is None else check_rng(state)


def _tree(part: Part) -> dict[str, Any]:
    tree = tree_of(part)
    if not isinstance(tree, dict) or "gradients" not in tree:
        raise TornCheckpointError("The checkpoint's part of gradients holds none.")
    return tree


def _named(module: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    names = parameter_names(module)
    yield from module.named_parameters()
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if parameter not in names:
                yield place_name(number, place), parameter
