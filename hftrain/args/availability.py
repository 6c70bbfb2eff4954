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

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor")


@dataclass(frozen=True)
class Row:
    """Why an argument's value is refused.

    Attributes:
        instead: what to set.
        unset: values beside the default that ask for nothing.
        is_for_good: it is no part of hftrain, rather than of this version.
    """

    instead: str
    unset: tuple[Any, ...] = ()
    is_for_good: bool = False


_NO_HUB = "Leave it out, and upload the output_dir after training."
_NO_FSDP = "Leave it out; DistributedDataParallel is used under torchrun."
_NO_TPU = "Leave it out; CPU, CUDA and MPS are supported."
_NO_MEMORY_PROBE = "Set skip_memory_metrics=True, and measure with torch.cuda.max_memory_allocated."
_OWN_METRICS = "Return what the metric needs from TaskModule.eval_step, and name it in configure_metrics."

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
    "tpu_num_cores": Row(_NO_TPU),
    "tpu_metrics_debug": Row(_NO_TPU),
    "use_ipex": Row("Set use_ipex=False; torch itself has Intel's kernels."),
    "debug": Row(
        "Set debug='', and torch.autograd.set_detect_anomaly(True) to find where a nan comes from.", unset=([],)
    ),
    # the model and its loss
    "label_smoothing_factor": Row("Set 0.0, and give torch.nn.functional.cross_entropy its label_smoothing."),
    "neftune_noise_alpha": Row("Leave it out, and add the noise in the model's embedding."),
    "past_index": Row("Leave it at -1, and keep the state in the model."),
    "use_liger_kernel": Row(
        "Set use_liger_kernel=False, and apply the kernels to the model before training.", unset=(None,)
    ),
    "liger_kernel_config": Row("Leave it out, and apply the kernels to the model before training.", unset=({},)),
    "optim_target_modules": Row("Leave it out; the optimizers that read it are not there either.", unset=("", [])),
    "average_tokens_across_devices": Row(
        "Leave it out: a TaskModule's count_items is summed over all processes anyway.", unset=(None,)
    ),
    "auto_find_batch_size": Row("Set a per_device_train_batch_size that fits, and gradient_accumulation_steps."),
    # the data
    "group_by_length": Row("Set group_by_length=False, and sort the data or give a sampler that groups."),
    "length_column_name": Row("Leave it out; only group_by_length reads it.", unset=(None,)),
    # evaluation
    "include_inputs_for_metrics": Row(_OWN_METRICS),
    "include_for_metrics": Row(_OWN_METRICS, unset=([],)),
    "batch_eval_metrics": Row("Leave it out: the metrics of configure_metrics are updated batch by batch anyway."),
    "eval_use_gather_object": Row(
        "Set eval_use_gather_object=False, and return tensors from eval_step.", unset=(None,)
    ),
    "jit_mode_eval": Row("Set jit_mode_eval=False, or torch_compile=True."),
    "use_legacy_prediction_loop": Row("Set use_legacy_prediction_loop=False; there is one evaluation loop."),
    # what is measured and where it goes
    "skip_memory_metrics": Row(_NO_MEMORY_PROBE),
    "include_tokens_per_second": Row("Leave it out, and log a count with TaskModule.log.", unset=(None,)),
    "include_num_input_tokens_seen": Row("Leave it out, and log a count with TaskModule.log.", unset=(None,)),
    "report_to": Row("Set report_to='none', and log from a callback's on_log.", unset=([],)),
    "logging_dir": Row("Leave it out; no TensorBoard log is written."),
    "ray_scope": Row("Leave it out; only a search with Ray reads it.", unset=(None,)),
    # our own
    "save_async": Row("Leave it out; checkpoints are written before training goes on.", unset=(False,)),
    "save_minutes": Row("Set save_steps."),
    "save_keep_every_steps": Row("Set save_total_limit=None to keep all checkpoints."),
    "deadline_minutes": Row("Set max_steps."),
    "tracker_errors": Row("Leave it out; there are no trackers."),
    "tracker_close_s": Row("Leave it out; there are no trackers."),
    "report": Row("Leave it out."),
    "auto_batch_keep_global": Row("Leave it out."),
    # sequence to sequence
    "sortish_sampler": Row("Set sortish_sampler=False."),
    "predict_with_generate": Row("Set predict_with_generate=False, and call generate in TaskModule.predict_step."),
    "generation_max_length": Row("Leave it out, and call generate in TaskModule.predict_step."),
    "generation_num_beams": Row("Leave it out, and call generate in TaskModule.predict_step."),
    "generation_config": Row("Leave it out, and call generate in TaskModule.predict_step."),
}


def _apex(value: Any) -> Row | None:
    return Row("Set half_precision_backend='auto': torch's own autocast is used.") if value == "apex" else None


def _opt_level(value: Any) -> Row | None:
    return Row("Set fp16_opt_level='O1': the other levels are Apex's.") if value in ("O0", "O2", "O3") else None


def _optimizer(value: Any) -> Row | None:
    return None if value in OPTIMIZERS else Row(f"Set one of {', '.join(OPTIMIZERS)}.")


def _backend(value: Any) -> Row | None:
    return Row("Set 'nccl' on CUDA, 'gloo' on the CPU, or leave it out.") if value in ("mpi", "ccl", "hccl") else None


def _pickles(value: Any) -> Row | None:
    instead = "Set save_safetensors=True: checkpoints hold no pickles, and tensors that share memory are saved once."
    return Row(instead, is_for_good=True) if value is False else None


def _lists_of_batches(value: Any) -> Row | None:
    return None if value else Row("Set eval_do_concat_batches=True.")


REFUSED_VALUES: Mapping[str, Callable[[Any], Row | None]] = {
    "half_precision_backend": _apex,
    "fp16_backend": _apex,
    "fp16_opt_level": _opt_level,
    "optim": _optimizer,
    "ddp_backend": _backend,
    "save_safetensors": _pickles,
    "eval_do_concat_batches": _lists_of_batches,
}

REFUSED_KEYS: Mapping[str, tuple[Any, Row]] = {  # key of accelerator_config -> (value, why)
    "dispatch_batches": (True, Row("Leave it out: every process reads its own batches.")),
    "use_seedable_sampler": (False, Row("Leave it out: the order of an epoch follows from the seed.")),
    "use_configured_state": (True, Row("Leave it out: hftrain creates the process group.", is_for_good=True)),
}
ACCUMULATION_KEYS = ("num_steps", "sync_each_batch")
LATER_ACCUMULATION_KEYS = ("adjust_scheduler", "sync_with_dataloader")


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
        for key in LATER_ACCUMULATION_KEYS:
            if key in (args.accelerator_config.gradient_accumulation_kwargs or {}):
                text = f"accelerator_config's gradient_accumulation_kwargs with {key!r}"
                yield "accelerator_config", _sentence(text, Row("Leave it out."))


def _is_set(args: Any, name: str, value: Any) -> bool:
    return value != own_default(type(args), name) and value not in REFUSED[name].unset


def _sentence(what: str, row: Row) -> str:
    where = "hftrain does not support this" if row.is_for_good else "this version of hftrain does not support this yet"
    return f"{what}: {where}. {row.instead}"
