"""Both libraries' arguments constructed alike, over a grid, and compared."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from hftrain.args.training import TrainingArguments

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

Reference: Any = transformers.training_args.TrainingArguments

DIFFERENT = {  # argument -> why it is not compared
    "disable_tqdm": "None stays None, so that the bar can ask whether there is a terminal",
    "logging_dir": "it has the time in its name; test_derivation.py compares the rest",
    "fsdp_config": "nothing is filled in for a strategy that is not used",
}

STEPS: dict[str, Any] = {"load_best_model_at_end": True, "eval_strategy": "steps"}
ACCUMULATE: dict[str, Any] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}

BOTH_ACCEPT: list[dict[str, Any]] = [
    {},
    {"output_dir": None},
    {"output_dir": "~/runs"},
    {"eval_strategy": "steps"},
    {"eval_strategy": "steps", "logging_steps": 7},
    {"eval_strategy": "steps", "eval_steps": 0},
    {"eval_strategy": "epoch", "eval_delay": 2, "eval_on_start": True},
    {"logging_strategy": "epoch", "logging_steps": 0},
    {"logging_steps": 0.1, "save_steps": 0.25, "eval_steps": 0.5},
    {"logging_steps": 10.0, "save_steps": 20.0},
    {"save_strategy": "best", "metric_for_best_model": "accuracy"},
    {"save_steps": 0},
    {"save_steps": -1},
    {**STEPS, "eval_steps": 100},
    {**STEPS, "eval_steps": 0.1, "save_steps": 0.3},
    {**STEPS, "eval_steps": 0.25, "save_steps": 10},
    {**STEPS, "save_strategy": "best"},
    {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
    {"load_best_model_at_end": True, "save_strategy": "no"},
    {"load_best_model_at_end": True, "save_strategy": "best"},
    {"metric_for_best_model": "accuracy"},
    {"metric_for_best_model": "eval_loss"},
    {"metric_for_best_model": "loss", "greater_is_better": True},
    {"greater_is_better": False},
    {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
    {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}},
    {"lr_scheduler_kwargs": '{"num_cycles": "2", "flag": "true"}'},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"use_reentrant": false}'},
    {"warmup_ratio": 1.0, "warmup_steps": 5},
    {"max_steps": 10, "num_train_epochs": 1.5, "gradient_accumulation_steps": 4},
    {"optim": "adafactor"},
    {"optim": "adamw_torch_fused", "optim_args": "amsgrad=True"},
    {"adafactor": True, "optim": "sgd"},
    {"no_cuda": True},
    {"use_cpu": True, "bf16": True},
    {"use_cpu": True, "bf16_full_eval": True},
    {"fp16": True, "half_precision_backend": "cuda_amp"},
    {"fp16_backend": "cuda_amp"},
    {"tf32": False},
    {"torch_compile": True},
    {"torch_compile_backend": "eager"},
    {"torch_compile_mode": "max-autotune"},
    {"torchdynamo": "eager"},
    {"accelerator_config": {"split_batches": True}},
    {"accelerator_config": '{"even_batches": "false"}'},
    {"accelerator_config": ACCUMULATE},
    {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 3, "dataloader_persistent_workers": True},
    {"dataloader_drop_last": True, "dataloader_pin_memory": False, "remove_unused_columns": False},
    {"label_names": ["labels"], "run_name": "mine", "prediction_loss_only": True, "ignore_data_skip": True},
    {"seed": 1, "data_seed": 2, "full_determinism": True},
    {"log_level": "debug", "log_level_replica": "error", "log_on_each_node": False},
    {"ddp_timeout": 10, "ddp_bucket_cap_mb": 5, "ddp_find_unused_parameters": True, "ddp_broadcast_buffers": False},
    {"save_total_limit": 3, "save_only_model": True, "save_on_each_node": True},
    {"report_to": "none"},
    {"report_to": ["none"]},
    {"resume_from_checkpoint": "out/checkpoint-5", "do_train": True, "overwrite_output_dir": True},
    {"torch_empty_cache_steps": 5, "eval_accumulation_steps": 2, "max_grad_norm": 0},
]

BOTH_REFUSE: list[dict[str, Any]] = [
    {"eval_strategy": "best"},
    {"eval_strategy": True},
    {"save_strategy": "sometimes"},
    {"optim": "adamw_hf"},
    {"logging_steps": 0},
    {"logging_steps": 1.5},
    {"save_steps": 1.5},
    {"eval_strategy": "steps", "eval_steps": 1.5},
    {"load_best_model_at_end": True},
    {**STEPS, "save_strategy": "epoch"},
    {**STEPS, "eval_steps": 300},
    {**STEPS, "eval_steps": 0.1, "save_steps": 0.25},
    {**STEPS, "eval_steps": 10, "save_steps": 0.25},
    {"lr_scheduler_type": "reduce_lr_on_plateau"},
    {"warmup_ratio": 1.1},
    {"warmup_steps": -1},
    {"use_cpu": True, "bf16": True, "fp16": True},
    {"use_cpu": True, "bf16_full_eval": True, "fp16_full_eval": True},
    {"dataloader_prefetch_factor": 2},
    {"torch_empty_cache_steps": 0},
]


def both(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    given = {"output_dir": "out", "report_to": [], **given}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TrainingArguments(**given).to_dict(), Reference(**given).to_dict()


@pytest.mark.parametrize("given", BOTH_ACCEPT, ids=str)
def test_the_arguments_become_the_same(given: dict[str, Any]) -> None:
    ours, theirs = both(given)
    common = (ours.keys() & theirs.keys()) - DIFFERENT.keys()
    assert len(common) > 100
    assert {name: ours[name] for name in common} == {name: theirs[name] for name in common}


def test_only_the_intended_arguments_differ() -> None:
    ours, theirs = both({})
    assert theirs.keys() - ours.keys() == set()
    different = {name for name in theirs if ours[name] != theirs[name]}
    assert different | {"logging_dir"} == DIFFERENT.keys()  # made within a second, the folders are the same


@pytest.mark.parametrize("given", BOTH_REFUSE, ids=str)
def test_both_refuse(given: dict[str, Any]) -> None:
    given = {"output_dir": "out", "report_to": [], **given}
    for library in (TrainingArguments, Reference):
        with pytest.raises(ValueError, match=r"."):
            library(**given)


SETTERS: list[tuple[str, dict[str, Any]]] = [
    ("set_training", {}),
    ("set_training", {"learning_rate": 1e-4, "batch_size": 32, "max_steps": 3, "gradient_checkpointing": True}),
    ("set_evaluate", {"strategy": "steps", "steps": 100, "delay": 0}),
    ("set_evaluate", {"strategy": "epoch", "batch_size": 4, "accumulation_steps": 2, "delay": 1.0, "loss_only": True}),
    ("set_testing", {"batch_size": 32, "loss_only": True}),
    ("set_save", {"strategy": "epoch", "steps": 3, "total_limit": 2, "on_each_node": True}),
    ("set_logging", {"strategy": "epoch", "steps": 0, "report_to": [], "level": "debug", "first_step": True}),
    ("set_optimizer", {"name": "adafactor", "learning_rate": 1, "beta1": 0.1, "epsilon": 3, "args": "a=1"}),
    ("set_lr_scheduler", {"name": "cosine", "num_epochs": 4, "max_steps": 7, "warmup_ratio": 0.1, "warmup_steps": 3}),
    ("set_dataloader", {"train_batch_size": 16, "num_workers": 2, "prefetch_factor": 3, "sampler_seed": 5}),
]


@pytest.mark.parametrize(("method", "given"), SETTERS)
def test_the_setters_set_the_same(method: str, given: dict[str, Any]) -> None:
    found = [
        getattr(library("out", report_to=[]), method)(**given).to_dict() for library in (TrainingArguments, Reference)
    ]
    common = (found[0].keys() & found[1].keys()) - DIFFERENT.keys()
    assert {name: found[0][name] for name in common} == {name: found[1][name] for name in common}


def test_the_properties_say_the_same() -> None:
    names = ["world_size", "process_index", "local_process_index", "should_log", "should_save", "place_model_on_device"]
    names += ["train_batch_size", "eval_batch_size", "ddp_timeout_delta", "n_gpu", "device"]
    given: dict[str, Any] = {"report_to": [], "use_cpu": True, "warmup_ratio": 0.11}
    ours, theirs = TrainingArguments("out", **given), Reference("out", **given)
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}
    assert ours.parallel_mode.value == theirs.parallel_mode.value
    assert ours.get_warmup_steps(101) == theirs.get_warmup_steps(101)
    assert ours.get_process_log_level() == theirs.get_process_log_level()
