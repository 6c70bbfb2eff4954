"""Arguments about the run: where it writes, on what it runs, in which precision, and how data reaches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hftrain.args.fields import argument
from hftrain.types.choices import DebugOption, FSDPOption


@dataclass(kw_only=True)
class RunningArguments:
    """Everything around the update; ``output_dir`` is the only positional argument."""

    output_dir: str | None = field(
        default=None, kw_only=False, metadata={"help": "Folder of checkpoints and results; None: 'trainer_output'."}
    )
    overwrite_output_dir: bool = argument(False, "For your script: whether it may write into a folder that has files.")
    do_train: bool = argument(False, "For your script: whether it trains.")
    do_eval: bool = argument(False, "For your script: whether it evaluates; True when eval_strategy is not 'no'.")
    do_predict: bool = argument(False, "For your script: whether it predicts.")
    resume_from_checkpoint: str | None = argument(
        None, "For your script: what it hands to train; the value 'auto' is read by train itself."
    )
    run_name: str | None = argument(None, "Name of the run; None: output_dir.")

    seed: int = argument(42, "Seed of everything random.")
    data_seed: int | None = argument(None, "Seed of the samplers; None: seed.")
    full_determinism: bool = argument(False, "Use deterministic kernels only: slower, for debugging.")

    use_cpu: bool = argument(False, "Run on the CPU even if there is an accelerator.")
    no_cuda: bool = argument(False, "Deprecated spelling of use_cpu.")
    use_mps_device: bool = argument(False, "Deprecated: Apple's accelerator is used where there is one.")
    bf16: bool = argument(False, "Compute in bfloat16 where it is safe (autocast); weights stay float32.")
    fp16: bool = argument(False, "Compute in float16 where it is safe (autocast), with a scaled loss.")
    half_precision_backend: str = argument("auto", "Who does autocast: 'auto', 'cuda_amp' or 'cpu_amp'.")
    fp16_backend: str = argument("auto", "Deprecated spelling of half_precision_backend.")
    fp16_opt_level: str = argument("O1", "Optimization level of Apex; O1 is what autocast does.")
    bf16_full_eval: bool = argument(False, "Evaluate with weights cast to bfloat16.")
    fp16_full_eval: bool = argument(False, "Evaluate with weights cast to float16.")
    tf32: bool | None = argument(None, "Allow TF32 in matrix products; None: as torch has it.")
    torch_empty_cache_steps: int | None = argument(None, "Steps between two calls of empty_cache; None: never.")
    torch_compile: bool = argument(False, "Compile the model.")
    torch_compile_backend: str | None = argument(None, "Backend of torch.compile; set, it turns torch_compile on.")
    torch_compile_mode: str | None = argument(None, "Mode of torch.compile; set, it turns torch_compile on.")
    torchdynamo: str | None = argument(None, "Deprecated spelling of torch_compile_backend.")
    jit_mode_eval: bool = argument(False, "Evaluate with a traced model.")
    use_ipex: bool = argument(False, "Deprecated: use Intel's extension for PyTorch.")
    debug: str | list[DebugOption] = argument("", "Debugging aids, separated by spaces.")
    tpu_num_cores: int | None = argument(None, "Cores of a TPU.")
    tpu_metrics_debug: bool = argument(False, "Deprecated spelling of debug='tpu_metrics_debug'.")

    local_rank: int = argument(-1, "Place of this process on its node; torchrun says it, nobody needs to set it.")
    ddp_backend: str | None = argument(None, "How processes talk: 'nccl' or 'gloo'; None: by the device.")
    ddp_timeout: int = argument(1800, "Seconds to wait for another process.")
    ddp_find_unused_parameters: bool | None = argument(None, "DistributedDataParallel's find_unused_parameters.")
    ddp_bucket_cap_mb: int | None = argument(None, "DistributedDataParallel's bucket_cap_mb, in MiB.")
    ddp_broadcast_buffers: bool | None = argument(None, "DistributedDataParallel's broadcast_buffers.")
    fsdp: list[FSDPOption] | str | None = argument("", "Sharding options, separated by spaces.")
    fsdp_config: dict[str, Any] | str | None = argument(None, "Sharding settings, as a dict, JSON text or a JSON file.")
    fsdp_min_num_params: int = argument(0, "Deprecated spelling of fsdp_config's min_num_params.")
    fsdp_transformer_layer_cls_to_wrap: str | None = argument(
        None, "Deprecated spelling of fsdp_config's transformer_layer_cls_to_wrap."
    )
    deepspeed: dict[str, Any] | str | None = argument(None, "DeepSpeed's configuration, as a dict or a JSON file.")
    accelerator_config: dict[str, Any] | str | None = argument(
        None, "How batches are dealt to processes, as a dict, JSON text or a JSON file."
    )
    mp_parameters: str = argument("", "Settings of SageMaker's model parallelism.")
    _n_gpu: int = field(init=False, repr=False, default=-1)

    dataloader_drop_last: bool = argument(False, "Leave out a last batch that is not full.")
    dataloader_num_workers: int = argument(0, "Processes that load data; 0: the training process itself.")
    dataloader_prefetch_factor: int | None = argument(None, "Batches that each worker loads ahead.")
    dataloader_pin_memory: bool = argument(True, "Load into memory from which copies to a GPU are fast.")
    dataloader_persistent_workers: bool = argument(False, "Keep the workers from one epoch to the next.")
    remove_unused_columns: bool | None = argument(True, "Drop columns that the model's forward does not take.")
    label_names: list[str] | None = argument(None, "Keys of a batch that hold labels; None: by the model's signature.")
    group_by_length: bool = argument(False, "Put samples of similar length into one batch, with a bit of randomness.")
    length_column_name: str | None = argument("length", "Column that holds the lengths.")
    ignore_data_skip: bool = argument(False, "On resume, start the epoch's data over instead of where it stopped.")
