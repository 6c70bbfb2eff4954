"""The attributes that every part of the Trainer shares; annotations only, no behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from hftrain.args.training import TrainingArguments
    from hftrain.callbacks.handler import CallbackHandler
    from hftrain.callbacks.tracking import Tracking
    from hftrain.checkpoint.manager import CheckpointManager
    from hftrain.core.counting import TokenCounter
    from hftrain.core.data import DataModule
    from hftrain.core.interrupts import Interrupts
    from hftrain.core.runner import LoopRunner
    from hftrain.data.loaders import KeptLoader
    from hftrain.hardware.engine import Engine
    from hftrain.trainer.accelerator import AcceleratorShim
    from hftrain.trainer.memory import MemoryTracker
    from hftrain.types.control import TrainerControl
    from hftrain.types.state import TrainerState


class TrainerBase:
    """What `Trainer` is made of.

    Attributes:
        model: the user's module, never a wrapper.
        model_wrapped: what the engine made of it; calling it runs the strategy (DDP).
        args: the arguments; `train` checks them again.
        datamodule: where the data of a TaskModule comes from, or None.
        train_dataset: the Trainer's own training data, or None.
        eval_dataset: the Trainer's own evaluation data, one set or a dict of named ones, or None.
        data_collator: makes a batch from samples; None takes the default of the door.
        optimizer: of the current or last run.
        lr_scheduler: of the current or last run.
        state: counters and rows.
        control: the flags that callbacks set.
        callback_handler: the callbacks, in order.
        is_in_train: whether `train` is running.
        current_gradient_accumulation_steps: micro-batches of the step that is running.
        label_names: batch entries that are labels.
        processing_class: tokenizer or processor of the data, saved with the model; or None.
        compute_metrics: a function of an `EvalPrediction`, or torchmetrics; or None.
        preprocess_logits_for_metrics: applied to logits before they are kept; or None.
        neftune_noise_alpha: noise on the embeddings in training; or None.
        model_accepts_loss_kwargs: whether the model is given ``num_items_in_batch`` and weights its loss by it.
        can_return_loss: whether the model returns a loss without labels.
        is_model_parallel: whether the model's layers are spread over devices already.
        place_model_on_device: whether the model is moved to the run's device.
        accelerator: the engine of the run under the names that accelerate has for it.
        gather_function: joins what the processes computed for metrics.
        is_fsdp_enabled: whether parameters are sharded.
        is_deepspeed_enabled: whether DeepSpeed trains.
        label_smoother: (outputs, labels, shift_labels) -> loss, with ``label_smoothing_factor``; or None.
        current_flos: floating point operations counted since ``state.total_flos`` was brought up to date.
        neftune_hook_handle: ends the noise on the embeddings; there while there is noise.
        hp_name: names the trials of a search; or None.
        model_preparation_time: seconds to place the model for an evaluation before any training; or None.
        jit_compilation_time: seconds to trace the model for the latest evaluation with ``jit_mode_eval``; or None.
        hub_model_id: the repository that is pushed to; None without pushing.
        run_id: names the run in its folder and its checkpoints; None before the first `train`.
    """

    model: nn.Module
    model_wrapped: nn.Module
    args: TrainingArguments
    datamodule: DataModule | None
    train_dataset: Any
    eval_dataset: Any
    data_collator: Callable[[list[Any]], Any] | None
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: Any
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    compute_loss_func: Callable[..., torch.Tensor] | None
    model_init: Callable[..., nn.Module] | None
    processing_class: Any
    compute_metrics: Any
    preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None
    neftune_noise_alpha: float | None
    model_accepts_loss_kwargs: bool
    can_return_loss: bool
    is_model_parallel: bool
    place_model_on_device: bool
    accelerator: AcceleratorShim
    gather_function: Callable[..., Any]
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    hp_name: Any
    hub_model_id: str | None
    model_preparation_time: float | None
    jit_compilation_time: float | None
    label_smoother: Callable[..., torch.Tensor] | None
    current_flos: float
    neftune_hook_handle: RemovableHandle
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    is_in_train: bool
    current_gradient_accumulation_steps: int
    label_names: list[str]
    run_id: str | None
    _early_run_id: str | None

    _train_batch_size: int
    _past: Any
    _token_counter: TokenCounter | None
    _memory_tracker: MemoryTracker
    _created_lr_scheduler: bool
    _signature_columns: list[str] | None
    _kept_loaders: dict[str, KeptLoader]
    _globalstep_last_logged: int
    _total_loss_scalar: float
    _engine: Engine | None
    _runner: LoopRunner | None
    _checkpoints: CheckpointManager | None
    _loaded_checkpoint: str | None
    _interrupts: Interrupts | None
    _tracking: Tracking | None
    _said_why_at_once: bool
    _best_before_save: str | None
    _stages_set_up: set[str]
    _ignore_keys_for_eval: list[str] | None
    _loss_arguments: tuple[float, float | None] | None
    _given_optimizers: tuple[torch.optim.Optimizer | None, Any]
