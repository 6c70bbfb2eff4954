"""Arguments that are not those of the checkpoint a run goes on from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hftrain.args.training import TrainingArguments
    from hftrain.trainer.save_methods import SaveMethods

KEPT_BY_OPTIMIZER = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
"""What is part of an optimizer's state: a loaded one goes on with its own."""

CHANGE_THE_RUN = (
    *("num_train_epochs", "max_steps"),
    *("auto_find_batch_size", "auto_batch_keep_global"),
    *("dataloader_drop_last", "accelerator_config", "group_by_length", "length_column_name"),
    *("remove_unused_columns", "label_names"),
    *("bf16", "fp16", "tf32", "half_precision_backend", "fp16_backend", "fp16_opt_level"),
    *("optim", "optim_args", "optim_target_modules", "adafactor", *KEPT_BY_OPTIMIZER, "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_ratio", "warmup_steps"),
    *("label_smoothing_factor", "neftune_noise_alpha", "average_tokens_across_devices", "past_index"),
    *("use_liger_kernel", "liger_kernel_config"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
)
"""Arguments that decide what a run's weights become, beside its shape and seeds, which are compared with its data."""


def saved_arguments(trainer: SaveMethods) -> Mapping[str, Any]:
    """Return the arguments in the checkpoint that this run goes on from; none where it holds none."""
    path = trainer._loaded_checkpoint
    reader = None if path is None else trainer._checkpoint(path)
    return reader.fields("training_args") if reader is not None and reader.has("training_args") else {}


def changed_arguments(args: TrainingArguments, saved: Mapping[str, Any]) -> list[str]:
    """Return a line for each argument that changes the run and is not what was saved; unknown ones are none."""
    now = json.loads(args.to_json_string())
    return [
        _line(name, now[name], saved[name])
        for name in CHANGE_THE_RUN
        if name in now and name in saved and now[name] != saved[name]
    ]


def _line(name: str, now: Any, then: Any) -> str:
    line = f"{name}: {str(now)[:200]} (from args) != {str(then)[:200]} (from training_args.json)"
    return f"{line}; the loaded optimizer goes on with the latter" if name in KEPT_BY_OPTIMIZER else line
