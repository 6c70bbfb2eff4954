"""Old spellings: each acts once, when it is first seen with that value, and is warned about."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftrain.args.fields import own_default
from hftrain.types.choices import DebugOption, OptimizerNames

PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Spelling:
    """An old spelling.

    Attributes:
        act: sets what is meant; called with the arguments and the value.
        instead: what to write.
        category: of the warning.
    """

    act: Callable[[Any, Any], None]
    instead: str
    category: type[Warning] = FutureWarning


def _renamed(name: str) -> Spelling:
    return Spelling(act=lambda args, value: setattr(args, name, value), instead=f"Set {name}")


def _adafactor(args: Any, value: bool) -> None:
    args.optim = OptimizerNames.ADAFACTOR


def _torchdynamo(args: Any, value: str) -> None:
    args.torch_compile_backend = value


def _inputs_for_metrics(args: Any, value: bool) -> None:
    if "inputs" not in args.include_for_metrics:
        args.include_for_metrics = [*args.include_for_metrics, "inputs"]


def _tpu_metrics(args: Any, value: bool) -> None:
    if DebugOption.TPU_METRICS_DEBUG not in args.debug:
        args.debug = [*args.debug, DebugOption.TPU_METRICS_DEBUG]


def _hub_model_id(args: Any, value: str) -> None:
    owner = args.push_to_hub_organization
    name = args.push_to_hub_model_id or Path(args.output_dir).name
    args.hub_model_id = f"{owner}/{name}" if owner else name


def _fsdp_config(key: str) -> Spelling:
    def act(args: Any, value: Any) -> None:
        args.fsdp_config = {**(args.fsdp_config or {}), key: value}

    return Spelling(act=act, instead=f"Set fsdp_config={{'{key}': ...}}")


def _nothing(args: Any, value: Any) -> None:
    """The accelerator that is there is used anyway."""


SPELLINGS: Mapping[str, Spelling] = {
    "per_gpu_train_batch_size": _renamed("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": _renamed("per_device_eval_batch_size"),
    "no_cuda": _renamed("use_cpu"),
    "fp16_backend": _renamed("half_precision_backend"),
    "adafactor": Spelling(act=_adafactor, instead="Set optim='adafactor'"),
    "torchdynamo": Spelling(act=_torchdynamo, instead="Set torch_compile_backend"),
    "use_mps_device": Spelling(
        act=_nothing, instead="Leave it out: Apple's accelerator is used where there is one", category=UserWarning
    ),
    "include_inputs_for_metrics": Spelling(act=_inputs_for_metrics, instead="Set include_for_metrics=['inputs']"),
    "tpu_metrics_debug": Spelling(act=_tpu_metrics, instead="Set debug='tpu_metrics_debug'"),
    "push_to_hub_token": _renamed("hub_token"),
    "push_to_hub_model_id": Spelling(act=_hub_model_id, instead="Set hub_model_id"),
    "push_to_hub_organization": Spelling(act=_hub_model_id, instead="Set hub_model_id='organization/name'"),
    "fsdp_min_num_params": _fsdp_config("min_num_params"),
    "fsdp_transformer_layer_cls_to_wrap": _fsdp_config("transformer_layer_cls_to_wrap"),
    "use_ipex": Spelling(act=_nothing, instead="Leave it out"),
}


def apply_old_spellings(args: Any, *, acted: dict[str, Any], except_for: set[str]) -> Iterator[tuple[str, Spelling]]:
    """Let every old spelling that is set act, and yield those that did.

    Args:
        args: the arguments.
        acted: name -> value of those that acted before. A value acts once, so that what is set later stands;
            updated here.
        except_for: arguments whose value is wrong.
    """
    for name, spelling in SPELLINGS.items():
        value = getattr(args, name)
        if name in except_for or acted.get(name, own_default(type(args), name)) == value:
            continue
        acted[name] = value
        if value:
            spelling.act(args, value)
            yield name, spelling


def warn_of(name: str, spelling: Spelling) -> None:
    """Warn of an old spelling, at the line that wrote it."""
    warnings.warn(f"{name} is deprecated. {spelling.instead}.", spelling.category, stacklevel=_depth_of_caller())


def _depth_of_caller() -> int:
    depth = 2  # the function that warns
    frame = sys._getframe(depth)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((PACKAGE, "<string>")):
        frame = frame.f_back
        depth += 1
    return depth
