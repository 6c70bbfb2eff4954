"""Arguments about the update: batches, optimizer, schedule, loss and gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hftrain.args.fields import argument
from hftrain.types.choices import OptimizerNames, SchedulerType


@dataclass(kw_only=True)
class OptimizationArguments:
    """What one optimizer update is made of, and how many there are."""

    per_device_train_batch_size: int = argument(8, "Samples of a training batch, on each device.")
    per_gpu_train_batch_size: int | None = argument(None, "Deprecated spelling of per_device_train_batch_size.")
    gradient_accumulation_steps: int = argument(1, "Batches that make up one optimizer update.")
    auto_find_batch_size: bool = argument(False, "Halve the batch size after running out of memory, and go on.")

    num_train_epochs: float = argument(3.0, "Passes over the training data; 1.5 stops in the middle of the second.")
    max_steps: int = argument(-1, "Optimizer updates of the run; above 0 it overrides num_train_epochs.")

    learning_rate: float = argument(5e-5, "Learning rate at the top of the schedule.")
    weight_decay: float = argument(0.0, "Weight decay, on all parameters but biases and normalisation layers.")
    adam_beta1: float = argument(0.9, "Decay of the first moment in Adam and its relatives.")
    adam_beta2: float = argument(0.999, "Decay of the second moment in Adam and its relatives.")
    adam_epsilon: float = argument(1e-8, "Term that keeps Adam and its relatives from dividing by zero.")
    max_grad_norm: float = argument(1.0, "Largest norm of the gradients, longer ones are scaled down; 0: no clipping.")
    optim: OptimizerNames | str = argument("adamw_torch", "Name of the optimizer.")
    optim_args: str | None = argument(None, "Further optimizer settings, as 'name=value,name=value'.")
    adafactor: bool = argument(False, "Deprecated spelling of optim='adafactor'.")
    optim_target_modules: None | str | list[str] = argument(None, "Modules that GaLore and APOLLO optimizers act on.")

    lr_scheduler_type: SchedulerType | str = argument("linear", "Name of the learning rate schedule.")
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default_factory=dict, metadata={"help": "Further settings of the schedule: a dict, JSON text or a JSON file."}
    )
    warmup_ratio: float = argument(0.0, "Part of all updates over which the learning rate rises from 0; 0 to 1.")
    warmup_steps: int = argument(0, "Updates over which the learning rate rises from 0; overrides warmup_ratio.")

    gradient_checkpointing: bool = argument(False, "Recompute activations in the backward pass: slower, less memory.")
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = argument(
        None, "Keyword arguments of the model's gradient_checkpointing_enable, as a dict, JSON text or a JSON file."
    )
    label_smoothing_factor: float = argument(0.0, "Probability mass taken from the label and spread over all classes.")
    neftune_noise_alpha: float | None = argument(None, "Size of the noise added to embeddings (NEFTune).")
    average_tokens_across_devices: bool | None = argument(False, "Count the items of a loss over all processes.")
    past_index: int = argument(-1, "Position of the past state among the model's outputs; -1: there is none.")
    use_liger_kernel: bool | None = argument(False, "Replace parts of the model by Liger kernels.")
    liger_kernel_config: dict[str, bool] | None = argument(None, "Which Liger kernels to use.")
