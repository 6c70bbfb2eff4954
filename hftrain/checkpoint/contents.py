"""What a checkpoint holds: named parts, made from live objects and loaded back into them.

A part of name ``optimizer`` becomes ``optimizer.safetensors`` (if it has tensors) and ``optimizer.json``
(if it has a document); one that each rank writes for itself becomes ``rng-0.json`` and so on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hftrain.checkpoint.checks import (
    check_group,
    check_optimizer,
    check_parameter_state,
    check_rng,
    check_scaler,
    check_scheduler,
    named_errors,
)
from hftrain.checkpoint.tree import pack, unpack
from hftrain.errors import CheckpointError, TornCheckpointError


@dataclass(frozen=True, kw_only=True)
class Part:
    """One named piece of a checkpoint. It refers to live tensors: write it before training goes on.

    Attributes:
        document: anything JSON has; None for no JSON file.
        per_rank: every rank writes its own; else rank 0 writes it and the others' is ignored.
        files: further files as they are, by name inside the folder, such as ``config.json``.
        shared: for the model: a name left out -> the name that shares its memory.
    """

    name: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    document: Any = None
    per_rank: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)


class Stateful(Protocol):
    """A scheduler, or anything else that gives and takes its state."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state back."""


def document_part(name: str, document: Any) -> Part:
    """A part that is one JSON file: ``run``, ``data``, ``trainer_state``, ``task``..."""
    return Part(name=name, document=document)


def files_part(name: str, files: Mapping[str, bytes]) -> Part:
    """A part that is files as they are: a model's configuration, a tokenizer."""
    return Part(name=name, files=files)


def tree_part(name: str, tree: Any, *, per_rank: bool = False) -> Part:
    """A part that is any tree of plain data and tensors; :func:`tree_of` gives it back.

    Raises:
        CheckpointError: something in it has no place in JSON or safetensors; names where.
    """
    tensors, document = pack(tree)
    return Part(name=name, tensors=tensors, document=document, per_rank=per_rank)


def tree_of(part: Part) -> Any:
    """The tree that :func:`tree_part` was given."""
    return unpack(part.tensors, part.document)


# ---------------------------------------------------------------------------------------------------------------- model


def model_part(state_dict: Mapping[str, Any], *, tied: Collection[str] = (), keep_untied: bool = False) -> Part:
    """The model's weights under Hugging Face's names; tensors that are one memory are saved once.

    Args:
        state_dict: as ``module.state_dict()`` gives it. Extra states that are no tensors go to ``model.json``.
        tied: names to leave out rather than keep where several share memory, for a model that knows its ties.
        keep_untied: leave out no other names: transformers would fill them at random when it loads the file.
    """
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for name, value in state_dict.items():
        (tensors if isinstance(value, Tensor) else extra)[name] = value
    shared = _shared_names(tensors, tied)
    if keep_untied:
        shared = {name: kept for name, kept in shared.items() if name in tied}
    extra_tensors, document = pack(extra, prefix="extra")
    kept = {name: tensor.detach() for name, tensor in tensors.items() if name not in shared}
    return Part(name="model", tensors=kept | extra_tensors, document=document or None, shared=shared)


def model_state(part: Part) -> dict[str, Any]:
    """The state dict of a model part; names that shared memory share it again."""
    extra = unpack(part.tensors, part.document or {})
    if not isinstance(extra, dict):
        raise TornCheckpointError("The model's JSON holds no extra states by name.")
    tensors = {name: tensor for name, tensor in part.tensors.items() if not part.document or name[:6] != "extra/"}
    aliases = {alias: tensors[kept] for alias, kept in part.shared.items()}
    return {**tensors, **aliases, **extra}


def _shared_names(tensors: Mapping[str, Tensor], tied: Collection[str]) -> dict[str, str]:
    kept: dict[tuple[Any, ...], str] = {}
    shared: dict[str, str] = {}
    for name in sorted(tensors, key=lambda name: name in tied):  # stable: first the names to keep
        tensor = tensors[name]
        if tensor.layout != torch.strided or not tensor.numel() or tensor.is_meta:
            continue
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if kept.setdefault(memory, name) != name:
            shared[name] = kept[memory]
    return shared


# ------------------------------------------------------------------------------------------------------------ optimizer


def parameter_names(module: nn.Module) -> dict[Tensor, str]:
    """Each parameter's first name, as the optimizer's state is keyed by."""
    return {parameter: name for name, parameter in module.named_parameters()}


def place_name(group: int, number: int) -> str:
    """The name of a parameter that has none: where it stands in the optimizer's groups."""
    return f"param_groups.{group}.{number}"


def optimizer_part(optimizer: Optimizer, names: Mapping[Tensor, str]) -> Part:
    """The optimizer's state by parameter name, so that it loads into other groups of the same parameters.

    Args:
        optimizer: its ``state_dict`` must be torch's: ``state`` by index, ``param_groups``.
        names: parameter -> name (:func:`parameter_names`); a parameter that is not there is named by its place.
    """
    state_dict = dict(optimizer.state_dict())
    name_of = dict(enumerate(_names_in_order(optimizer, names)))
    state = {name_of[index]: value for index, value in state_dict.pop("state").items()}
    groups = [
        {**group, "params": [name_of[index] for index in group["params"]]} for group in state_dict.pop("param_groups")
    ]
    tensors, packed_state = pack(state)
    more_tensors, packed_rest = pack({"param_groups": groups, "more": state_dict}, prefix="$")
    return Part(name="optimizer", tensors=tensors | more_tensors, document={"state": packed_state, **packed_rest})


def load_optimizer(part: Part, optimizer: Optimizer, names: Mapping[Tensor, str]) -> None:
    """Load what :func:`optimizer_part` made, bit for bit, whatever the groups are now.

    A group takes the settings of the saved group that holds its first parameter. Where every parameter was saved by
    its place, as the reference does it, it is found by its place.

    Raises:
        CheckpointError: the checkpoint is of an optimizer over other parameters.
    """
    saved = check_optimizer(unpack(part.tensors, part.document))
    by_place = all(name.startswith("param_groups.") for group in saved["param_groups"] for name in group["params"])
    ordered = _names_in_order(optimizer, {} if by_place else names)
    index_of = {name: index for index, name in enumerate(ordered)}
    group_of = {name: group for group in saved["param_groups"] for name in group["params"]}
    if set(group_of) != set(index_of):
        raise CheckpointError(
            f"The checkpoint's optimizer is over other parameters: {_some(set(group_of) - set(index_of))} only there, "
            f"{_some(set(index_of) - set(group_of))} only here. Train the same parameters, or start from the weights "
            "alone (save_only_model, or a model loaded from the checkpoint and no resume_from_checkpoint)."
        )
    start = 0
    groups = []
    for group in optimizer.param_groups:
        indices = list(range(start, start + len(group["params"])))
        start += len(indices)
        settings = group_of[ordered[indices[0]]] if indices else group
        kept = {"param_names": group["param_names"]} if "param_names" in group else {}
        check_group(settings, group)
        # A setting that the file lacks, of a later version of torch or left out by hand, stays as it is.
        groups.append({**group, **settings, **kept, "params": indices})
    state = {index_of[name]: value for name, value in saved["state"].items()}
    for index, (number, place, parameter) in enumerate(_places(optimizer.param_groups)):
        where = f"parameter {place} of group {number}"
        check_parameter_state(state.get(index, {}), parameter, optimizer, place=where)
    with named_errors("optimizer"):
        optimizer.load_state_dict({**saved["more"], "state": state, "param_groups": groups})
    _restore_dtypes(optimizer, state)


def _names_in_order(optimizer: Optimizer, names: Mapping[Tensor, str]) -> list[str]:
    """Names in the order of the state dict's indices."""
    places = _places(optimizer.param_groups)
    return [names.get(parameter, place_name(group, number)) for group, number, parameter in places]


def _places(groups: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, int, Tensor]]:
    for group_number, group in enumerate(groups):
        for number, parameter in enumerate(group["params"]):
            yield group_number, number, parameter


def _restore_dtypes(optimizer: Optimizer, state: Mapping[int, Any]) -> None:
    """Undo torch's cast of loaded state to the parameter's dtype: fp32 state of a bf16 parameter must stay exact."""
    for index, (_, _, parameter) in enumerate(_places(optimizer.param_groups)):
        live = optimizer.state.get(parameter, {})
        for key, value in (state.get(index) or {}).items():
            if isinstance(value, Tensor) and isinstance(live.get(key), Tensor) and live[key].dtype != value.dtype:
                live[key] = value.to(live[key].device)


def _some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3]) or "none"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ------------------------------------------------------------------------------------ scheduler, scaler, random numbers


def scheduler_part(scheduler: Stateful) -> Part:
    """The learning-rate scheduler's state."""
    return tree_part("scheduler", scheduler.state_dict())


def load_scheduler(part: Part, scheduler: Stateful) -> None:
    """Load what :func:`scheduler_part` made. Raises CheckpointError if it is of another kind of scheduler."""
    with named_errors("schedule"):
        scheduler.load_state_dict(check_scheduler(tree_of(part), scheduler))


def scaler_part(state: Mapping[str, Any]) -> Part:
    """The fp16 gradient scaler's state."""
    return tree_part("scaler", state)


def scaler_state(part: Part) -> dict[str, Any]:
    """The state that :func:`scaler_part` was given, or the reference's. Raises TornCheckpointError."""
    return check_scaler(tree_of(part))


def rng_part(state: Mapping[str, Any]) -> Part:
    """The random number generators of one rank; every rank gives its own."""
    return tree_part("rng", state, per_rank=True)


def rng_of(part: Part) -> dict[str, Any]:
    """The state that :func:`rng_part` was given, or the reference's. Raises TornCheckpointError."""
    return check_rng(tree_of(part))
