"""What this version refuses to be told: nothing is accepted and then ignored.

``REFUSED`` lists arguments that do nothing yet and therefore must keep their default; ``REFUSED_VALUES`` lists
arguments that act, but not with every documented value. To make an argument act, delete its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hftrain.args.accelerator import AcceleratorConfig
from hftrain.args.fields import own_default, shown
from hftrain.hardware.vendors import PACKAGES, is_importable

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor")


@dataclass(frozen=True)
class Row:
    """Why an argument's value is refused.

    Attributes:
        instead: what to set.
        unset: values beside the default that ask for nothing.
        is_for_good: it is no part of hftrain, rather than of this version.
        lacking: the module that would have to be importable.
    """

    instead: str
    unset: tuple[Any, ...] = ()
    is_for_good: bool = False
    lacking: str = ""


_NO_HUB = "Leave it out, and upload the output_dir after training."
_NO_FSDP = "Leave it out; DistributedDataParallel is used under torchrun."
_OTHERWISE = "or leave it out: CPU, CUDA and MPS are used without it."

REFUSED: Mapping[str, Row] = {
    # the hub
    "push_to_hub": Row(_NO_HUB),
    "hub_model_id": Row(_NO_HUB),
    "hub_strategy": Row(_NO_HUB),
    "hub_token": Row(_NO_HUB, unset=("",)),
    "hub_private_repo": Row(_NO_HUB),
    "hub_always_push": Row(_NO_HUB),
    "hub_revision": Row(_NO_HUB),
    "push_to_hub_model_id": Row(_NO_HUB),
    "push_to_hub_organization": Row(_NO_HUB),
    "push_to_hub_token": Row(_NO_HUB, unset=("",)),
    # distributed strategies and accelerators
    "fsdp": Row(_NO_FSDP, unset=([],)),
    "fsdp_config": Row(_NO_FSDP, unset=({},)),
    "fsdp_min_num_params": Row(_NO_FSDP),
    "fsdp_transformer_layer_cls_to_wrap": Row(_NO_FSDP),
    "deepspeed": Row("Leave it out; DistributedDataParallel is used under torchrun.", unset=({},)),
    "mp_parameters": Row("Leave it out.", is_for_good=True),
    # the model and its loss
    "use_liger_kernel": Row(
        "Set use_liger_kernel=False, and apply the kernels to the model before training.", unset=(None,)
    ),
    "liger_kernel_config": Row("Leave it out, and apply the kernels to the model before training.", unset=({},)),
    "optim_target_modules": Row("Leave it out; the optimizers that read it are not there either.", unset=("", [])),
    # the data
    # what is measured and where it goes
    "ray_scope": Row("Leave it out; only a search with Ray reads it.", unset=(None,)),
    # sequence to sequence
}


def _apex(value: Any) -> Row | None:
    return _lacking("apex", "or set 'auto': torch's own autocast is used.") if value == "apex" else None


def _ipex(value: Any) -> Row | None:
    return _lacking("ipex", "or set use_ipex=False: torch itself has Intel's kernels.") if value else None


def _cores(value: Any) -> Row | None:
    if value is None:
        return None
    return _lacking("xla", _OTHERWISE) or (None if value == 1 else Row("Set 1: one process trains on one core."))


def _tpu_metrics(value: Any) -> Row | None:
    return _lacking("xla", _OTHERWISE) if value is True or "tpu_metrics_debug" in (value or ()) else None


def _lacking(backend: str, otherwise: str) -> Row | None:
    package = PACKAGES[backend]
    return None if is_importable(backend) else Row(f"{package.install}, {otherwise}", lacking=package.module)


def _optimizer(value: Any) -> Row | None:
    return None if value in OPTIMIZERS else Row(f"Set one of {', '.join(OPTIMIZERS)}.")


def _backend(value: Any) -> Row | None:
    return _lacking(value, "or set 'nccl' on CUDA, 'gloo' on the CPU.") if value in ("ccl", "hccl") else None


REFUSED_VALUES: Mapping[str, Callable[[Any], Row | None]] = {
    "half_precision_backend": _apex,
    "fp16_backend": _apex,
    "use_ipex": _ipex,
    "tpu_num_cores": _cores,
    "tpu_metrics_debug": _tpu_metrics,
    "debug": _tpu_metrics,
    "optim": _optimizer,
    "ddp_backend": _backend,
}

REFUSED_KEYS: Mapping[str, tuple[Any, Row]] = {  # key of accelerator_config -> (value, why)
    "use_configured_state": (True, Row("Leave it out: hftrain creates the process group.", is_for_good=True)),
}
ACCUMULATION_KEYS = ("num_steps", "sync_each_batch", "adjust_scheduler", "sync_with_dataloader")


def refusals(args: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """For each of the named arguments that asks for what is not there: its name and a sentence."""
    for name in names:
        value = getattr(args, name)
        row = REFUSED[name] if name in REFUSED and _is_set(args, name, value) else None
        if name in REFUSED_VALUES:
            row = REFUSED_VALUES[name](value)
        if row is not None:
            yield name, _sentence(shown(name, value), row)
    if "accelerator_config" in names and isinstance(args.accelerator_config, AcceleratorConfig):
        for key, (refused, row) in REFUSED_KEYS.items():
            if getattr(args.accelerator_config, key) is refused:
                yield "accelerator_config", _sentence(f"accelerator_config's {key}={refused}", row)


def _is_set(args: Any, name: str, value: Any) -> bool:
    return value != own_default(type(args), name) and value not in REFUSED[name].unset


def _sentence(what: str, row: Row) -> str:
    if row.lacking:
        return f"{what} needs {row.lacking}, which cannot be imported. {row.instead}"
    where = "hftrain does not support this" if row.is_for_good else "this version of hftrain does not support this yet"
    return f"{what}: {where}. {row.instead}"
