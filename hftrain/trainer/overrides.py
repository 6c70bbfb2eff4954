"""What an override of each method of the reference's Trainer does here; none is silently dead."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hftrain.errors import NotAvailableError


class Fate(StrEnum):
    """What happens to an override."""

    CALLED = "called"
    """A run calls it, so it takes effect."""
    YOURS = "yours"
    """Only scripts call the method, so an override takes effect where yours does."""
    REFUSED = "refused"
    """Nothing would be what its author meant: no Trainer of that class is made."""
    DEAD = "dead"
    """Nothing calls it, and a run is the same without it: a warning says what to use."""


@dataclass(frozen=True)
class Row:
    """What an override of one method does, and what to use instead where that is nothing."""

    fate: Fate
    port: str = ""


_CALLED = (
    # construction
    "_move_model_to_device",
    "call_model_init",
    "create_accelerator_and_postprocess",
    # data
    "_get_collator_with_removed_columns",
    "_get_dataloader",
    "_get_eval_sampler",
    "_get_train_sampler",
    "_remove_unused_columns",
    "_set_signature_columns_if_needed",
    "get_eval_dataloader",
    "get_test_dataloader",
    "get_train_dataloader",
    "num_examples",
    # steps
    "_activate_neftune",
    "_deactivate_neftune",
    "_get_learning_rate",
    "_maybe_log_save_evaluate",
    "_prepare_input",
    "_prepare_inputs",
    "_wrap_model",
    "autocast_smart_context_manager",
    "compute_loss",
    "compute_loss_context_manager",
    "create_optimizer",
    "create_optimizer_and_scheduler",
    "create_scheduler",
    "floating_point_ops",
    "get_batch_samples",
    "get_decay_parameter_names",
    "get_optimizer_cls_and_kwargs",
    "get_total_train_batch_size",
    "set_initial_training_values",
    "store_flos",
    "train",
    "training_step",
    # evaluation
    "_determine_best_metric",
    "_evaluate",
    "_pad_tensors_to_max_len",
    "evaluate",
    "evaluation_loop",
    "load_generation_config",
    "log",
    "predict",
    "prediction_loop",
    "prediction_step",
    "torch_jit_model_eval",
    # saving
    "_get_output_dir",
    "_issue_warnings_after_load",
    "_load_callback_state",
    "_load_best_model",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_load_rng_state",
    "_load_scaler",
    "_rotate_checkpoints",
    "_save",
    "_save_checkpoint",
    "_save_optimizer_and_scheduler",
    "_save_rng_state",
    "_save_scaler",
    "compare_trainer_and_checkpoint_args",
    "is_local_process_zero",
    "is_world_process_zero",
    "metrics_format",
    "save_model",
)

_YOURS = (
    "add_callback",
    "create_model_card",
    "get_learning_rates",
    "get_num_trainable_parameters",
    "get_optimizer_group",
    "get_tp_size",
    "hyperparameter_search",
    "init_hf_repo",
    "log_metrics",
    "num_tokens",
    "pop_callback",
    "push_to_hub",
    "remove_callback",
    "save_metrics",
    "save_state",
    "tokenizer",
)

_LOOP = (
    "Override training_step or get_batch_samples for what a step does, add a TrainerCallback for what happens between "
    "steps, or write a TaskModule and run hftrain.core.runner.LoopRunner yourself"
)
_SEARCH = "Hyperparameter search is not available in this version"
_HUB = "Pushing to a hub is not available in this version: upload in a callback's on_save"
_SHARDING = "Neither FSDP, DeepSpeed nor TPU saving is available in this version"
_GATHER = "Override evaluation_loop, and gather with self.accelerator.gather_for_metrics"

_REFUSED = {"_inner_training_loop": _LOOP}

_DEAD = {
    "_add_sm_patterns_to_gitignore": _HUB,
    "_finish_current_push": _HUB,
    "_fsdp_qlora_plugin_updates": _SHARDING,
    "_gather_and_numpify": _GATHER,
    "_hp_search_setup": _SEARCH,
    "_nested_gather": _GATHER,
    "_push_from_checkpoint": _HUB,
    "_report_to_hp_search": _SEARCH,
    "_save_tpu": _SHARDING,
    "_sorted_checkpoints": "Override _rotate_checkpoints",
    "_tune_save_checkpoint": _SEARCH,
    "propagate_args_to_deepspeed": _SHARDING,
}

OVERRIDES: Mapping[str, Row] = {
    **dict.fromkeys(_CALLED, Row(Fate.CALLED)),
    **dict.fromkeys(_YOURS, Row(Fate.YOURS)),
    **{name: Row(Fate.REFUSED, port) for name, port in _REFUSED.items()},
    **{name: Row(Fate.DEAD, port) for name, port in _DEAD.items()},
}
"""Every method of the reference's Trainer and Seq2SeqTrainer, by name."""


def check_overrides(kind: type) -> None:
    """Look through what a subclass overrides, before anything else is done.

    Args:
        kind: the class of the Trainer that is being made.

    Raises:
        NotAvailableError: an override that cannot be honoured; the message names what to override instead.
    """
    for name, owner in _overridden(kind):
        row = OVERRIDES[name]
        if row.fate is Fate.REFUSED:
            raise NotAvailableError(
                f"{owner.__name__} overrides {name}, which hftrain's loop does not have, so it would never run. "
                f"{row.port}."
            )
        if row.fate is Fate.DEAD:
            warnings.warn(f"{owner.__name__} overrides {name}, and nothing calls it here. {row.port}.", stacklevel=3)
    for name, owner in _colliding(kind):
        warnings.warn(
            f"{owner.__name__} defines {name}, a name that hftrain's Trainer uses inside. Rename it, unless it is to "
            "take the place of that.",
            stacklevel=3,
        )


def is_overridden(kind: type, name: str) -> bool:
    """Return whether a subclass outside of hftrain defines ``name``."""
    return _owner(kind, name) is not None


def is_replaced(trainer: object, name: str) -> bool:
    """Return whether a Trainer's method is not hftrain's: its class overrides it, or it was set on the object."""
    return name in vars(trainer) or is_overridden(type(trainer), name)


def _overridden(kind: type) -> list[tuple[str, type]]:
    owners = ((name, _owner(kind, name)) for name in OVERRIDES)
    return [(name, owner) for name, owner in owners if owner is not None]


def _colliding(kind: type) -> list[tuple[str, type]]:
    """Return the private names of our own, beside those of the reference, that a subclass defines."""
    inside = {name for base in kind.__mro__ if _is_ours(base) for name in vars(base)}
    private = sorted(name for name in inside - OVERRIDES.keys() if name.startswith("_") and not name.startswith("__"))
    owners = ((name, _owner(kind, name)) for name in private)
    return [(name, owner) for name, owner in owners if owner is not None]


def _owner(kind: type, name: str) -> type | None:
    base = next((base for base in kind.__mro__ if name in vars(base)), None)
    return None if base is None or _is_ours(base) else base


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]
