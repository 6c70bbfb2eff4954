"""Resolve the arguments once into the frozen settings that the layers take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from hftrain.args.accelerator import AcceleratorConfig
from hftrain.args.environment import accelerator_of
from hftrain.core.loop_settings import LoopSettings
from hftrain.data.settings import LoaderSettings
from hftrain.errors import ConfigurationError
from hftrain.hardware.settings import EngineSettings, VendorName
from hftrain.optim.optimizers import OptimizerSettings, parse_optim_args

if TYPE_CHECKING:
    from hftrain.args.training import TrainingArguments


def engine_settings(args: TrainingArguments) -> EngineSettings:
    """Return devices, precision, strategy and compilation."""
    return EngineSettings(
        accelerator=accelerator_of(args),
        precision="bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        full_eval=_full_eval(args),
        tf32=args.tf32,
        ddp_backend=args.ddp_backend,
        ddp_timeout_s=float(args.ddp_timeout),
        ddp_find_unused_parameters=args.ddp_find_unused_parameters,
        ddp_bucket_cap_mb=args.ddp_bucket_cap_mb,
        ddp_broadcast_buffers=args.ddp_broadcast_buffers,
        defer_sync=args.auto_find_batch_size,
        non_blocking=dealing_of(args).non_blocking,
        compile=args.torch_compile,
        compile_backend=args.torch_compile_backend,
        compile_mode=args.torch_compile_mode,
        vendor=_vendor(args),
        apex_opt_level=args.fp16_opt_level,
    )


def with_ddp_defaults(settings: EngineSettings, *, checkpoints: bool) -> EngineSettings:
    """Return the settings with what nobody set as a plain module wants it under DDP.

    A model may leave parameters unused, so they are looked for, unless activations are recomputed: recomputing them
    in backward would mark a parameter as ready twice, and buffers must not change in between. Otherwise buffers are
    left to torch, which broadcasts them.
    """
    unused, buffers = settings.ddp_find_unused_parameters, settings.ddp_broadcast_buffers
    return replace(
        settings,
        ddp_find_unused_parameters=not checkpoints if unused is None else unused,
        ddp_broadcast_buffers=False if checkpoints and buffers is None else buffers,
    )


def check_autocast_backend(args: TrainingArguments, device_type: str) -> None:
    """Refuse a ``half_precision_backend`` that names another device than the run has.

    Raises:
        ConfigurationError: it does, and a half precision is on.
    """
    device_of = {"cpu_amp": "cpu", "cuda_amp": "cuda"}.get(args.half_precision_backend, device_type)
    if (args.bf16 or args.fp16) and device_of != device_type:
        raise ConfigurationError(
            f"half_precision_backend={args.half_precision_backend!r} computes on {device_of}, and this run's device is "
            f"{device_type}. Set half_precision_backend='auto', or use_cpu={device_of == 'cpu'}."
        )


def loop_settings(args: TrainingArguments, *, loss_decimals: int | None = None) -> LoopSettings:
    """Return what the loop needs; ``loss_decimals`` is to how many digits a row's loss is rounded, None for none."""
    dealing = dealing_of(args)
    return LoopSettings(
        accumulation_steps=args.gradient_accumulation_steps,  # num_steps of accelerator_config is the same number
        max_grad_norm=float(args.max_grad_norm or 0.0),
        sync_each_batch=dealing.sync_each_batch,
        eval_on_start=args.eval_on_start,
        empty_cache_steps=args.torch_empty_cache_steps,
        filter_nonfinite_losses=args.logging_nan_inf_filter,
        loss_decimals=loss_decimals,
    )


def loader_settings(
    args: TrainingArguments, engine: Any, *, training: bool, batch_size: int | None = None
) -> LoaderSettings:
    """Return how batches are made, for training or for evaluation; ``batch_size`` None is that of the arguments."""
    dealing = dealing_of(args)
    return LoaderSettings(
        batch_size=batch_size or (args.train_batch_size if training else args.eval_batch_size),
        seed=data_seed(args),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        drop_last=args.dataloader_drop_last,
        even_batches=dealing.even_batches,
        split_batches=dealing.split_batches,
        dispatch_batches=dealing.dispatch_batches,
        use_seedable_sampler=dealing.use_seedable_sampler,
        process_index=engine.process_index,
        world_size=engine.world_size,
        device_type=engine.device.type,
        exchange=engine,
    )


def data_seed(args: TrainingArguments) -> int:
    """Return the seed of the data's order."""
    return args.data_seed if args.data_seed is not None else args.seed


def optimizer_settings(args: TrainingArguments) -> OptimizerSettings:
    """Return name and hyperparameters of the optimizer."""
    return OptimizerSettings(
        name=str(getattr(args.optim, "value", args.optim)),
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        beta1=args.adam_beta1,
        beta2=args.adam_beta2,
        epsilon=args.adam_epsilon,
        args=parse_optim_args(args.optim_args),
    )


def scheduler_arguments(args: TrainingArguments, num_training_steps: int) -> dict[str, Any]:
    """Return the keyword arguments of `get_scheduler`, the optimizer apart."""
    return {
        "name": args.lr_scheduler_type,
        "num_warmup_steps": args.get_warmup_steps(num_training_steps),
        "num_training_steps": num_training_steps,
        "scheduler_specific_kwargs": args.lr_scheduler_kwargs or {},
    }


def _vendor(args: TrainingArguments) -> VendorName | None:
    if args.half_precision_backend == "apex" and args.fp16:
        return "apex"
    if args.use_ipex:
        return "ipex"
    return "xla" if accelerator_of(args) == "xla" else None


def _full_eval(args: TrainingArguments) -> Literal["bf16", "fp16"] | None:
    if args.bf16_full_eval:
        return "bf16"
    return "fp16" if args.fp16_full_eval else None


def dealing_of(args: TrainingArguments) -> AcceleratorConfig:
    """Return how batches are dealt to processes."""
    config = args.accelerator_config
    return config if isinstance(config, AcceleratorConfig) else AcceleratorConfig()
