from __future__ import annotations

from typing import Any

import pytest

from hftrain.args.training import TrainingArguments
from hftrain.errors import ConfigurationError

BEST: dict[str, Any] = {"load_best_model_at_end": True}
STEPS: dict[str, Any] = {**BEST, "eval_strategy": "steps"}
ACCUMULATE: dict[str, Any] = {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be at least 1"),
        ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps=-1 must be at least 1"),
        ({"eval_accumulation_steps": 0}, "eval_accumulation_steps=0 must be at least 1"),
        ({"torch_empty_cache_steps": 0}, "torch_empty_cache_steps=0 must be at least 1"),
        ({"warmup_ratio": 1.1}, "warmup_ratio=1.1 must be at least 0 and at most 1"),
        ({"warmup_ratio": -0.1}, "warmup_ratio=-0.1"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"adam_beta2": 1.0}, "adam_beta2=1.0 must be at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"log_level": "loud"}, "log_level='loud' is not known. Choose one of 'passive'"),
        ({"ddp_backend": "ncl"}, "Did you mean 'nccl'"),
        ({"verify_checkpoint": "ful"}, "Did you mean 'full'"),
        ({"half_precision_backend": "amp"}, "half_precision_backend='amp' is not known"),
        ({"fp16_opt_level": "O2"}, "fp16_opt_level='O2' is a level of Apex, and half_precision_backend is 'auto'"),
        ({"output_dir": ""}, "output_dir='' names no folder"),
        ({"include_for_metrics": ["input"]}, "has 'input', which is not known. Did you mean 'inputs'"),
        ({"num_train_epochs": -1}, "num_train_epochs=-1 is no number of epochs"),
        ({"logging_steps": 0}, "logging_strategy='steps' needs logging_steps, which is 0"),
        ({"logging_steps": 1.5}, "Set logging_steps=2, or a number between 0 and 1"),
        ({"save_steps": 1.5}, "save_steps=1.5 is neither"),
        ({"save_steps": float("nan")}, "save_steps=nan is no number of updates"),
        ({"eval_strategy": "steps", "eval_steps": 2.5}, "eval_steps=2.5 is neither"),
        ({"eval_strategy": "steps", "eval_steps": -5}, "eval_steps=-5 is no number of updates"),
        (
            {"eval_strategy": "steps", "logging_strategy": "no", "logging_steps": 0},
            "eval_strategy='steps' needs eval_steps, which is 0, and so is logging_steps",
        ),
        (BEST, "eval_strategy='no' and save_strategy='steps' differ"),
        ({**STEPS, "save_strategy": "epoch"}, "eval_strategy='steps' and save_strategy='epoch' differ"),
        ({**STEPS, "eval_steps": 300}, "Set save_steps=600, or load_best_model_at_end=False"),
        ({**STEPS, "eval_steps": 0.1, "save_steps": 0.25}, "Set save_steps=0.3, or load_best_model_at_end=False"),
        ({**STEPS, "eval_steps": 10, "save_steps": 0.25}, "Set both as numbers of updates"),
        ({"save_strategy": "best"}, "save_strategy='best' needs metric_for_best_model"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "Set eval_strategy='epoch' or 'steps'"),
        ({"optim_args": "amsgrad"}, "'amsgrad' assigns nothing"),
        ({"bf16": True, "fp16": True}, "bf16=True and fp16=True exclude each other"),
        ({"bf16_full_eval": True, "fp16_full_eval": True}, "fp16_full_eval=True exclude each other"),
        ({"fp16": True, "use_cpu": True}, "fp16=True needs a GPU, and use_cpu=True"),
        ({"fp16": True, "half_precision_backend": "cpu_amp"}, "half_precision_backend='cpu_amp'"),
        ({"bf16": True, "use_cpu": True, "half_precision_backend": "cuda_amp"}, "exclude each other"),
        ({"tf32": True, "use_cpu": True}, "tf32=True needs a GPU, and use_cpu=True"),
        ({"ddp_backend": "nccl", "use_cpu": True}, "ddp_backend='nccl' needs a GPU"),
        ({"dataloader_prefetch_factor": 2}, "Set dataloader_num_workers above 0, or leave the factor out"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers=True keeps workers"),
        ({**ACCUMULATE, "gradient_accumulation_steps": 2}, "num_steps=4 contradict each other"),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_stps": 4}}}, "Did you mean 'num_steps'"),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 0}}}, "num_steps=0 must be"),
        ({"auto_batch_keep_global": True}, "Set auto_find_batch_size=True, or leave the other out"),
        ({"local_rank": 3}, "local_rank=3, but this is local process 0"),
        ({"max_shard_size": "lots"}, "max_shard_size='lots' is no size"),
    ],
)
def test_a_rule_says_what_was_found_and_what_to_set(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrainingArguments(**{"output_dir": "out", **given})
    assert expected in str(caught.value)
    assert "problems" not in str(caught.value)


def test_two_vendors_at_once_are_refused_installed_or_not() -> None:
    with pytest.raises(ConfigurationError, match="'apex' and use_ipex=True are of different devices"):
        TrainingArguments("out", half_precision_backend="apex", use_ipex=True)


@pytest.mark.parametrize(
    "given",
    [
        {**STEPS, "eval_steps": 100},
        {**STEPS, "eval_steps": 0.1, "save_steps": 0.3},
        {**STEPS, "eval_steps": 0.25, "save_steps": 10},
        {**STEPS, "save_strategy": "best"},
        {**BEST, "eval_strategy": "epoch", "save_strategy": "epoch"},
        {**BEST, "save_strategy": "no"},  # a callback may ask for evaluations
        {"save_strategy": "best", "metric_for_best_model": "accuracy"},
        {"save_steps": 0},  # only the end is saved
        {"save_steps": -1},
        {"eval_steps": 1.5},  # no strategy reads it
        {"logging_steps": 0, "logging_strategy": "epoch"},
        {"num_train_epochs": 0},
        {"num_train_epochs": -1, "max_steps": 10},
        {"warmup_ratio": 1.0},
        {"warmup_ratio": 0.1, "warmup_steps": 3},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        {"bf16": True, "use_cpu": True},
        {"bf16": True, "fp16_full_eval": True},
        {"dataloader_prefetch_factor": 2, "dataloader_num_workers": 1},
        {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"optim_args": "amsgrad=True, fused=False"},
        {"max_shard_size": "512MiB"},
        {"local_rank": 0},
    ],
)
def test_what_contradicts_nothing_is_accepted(given: dict[str, Any]) -> None:
    TrainingArguments("out", **given)


def test_all_problems_are_raised_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrainingArguments(
            "out",
            learning_rate="fast",  # type: ignore[arg-type]
            bf16=True,
            fp16=True,
            push_to_hub=True,
            warmup_ratio=2,
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 problems with the arguments:"
    assert [line.split("=")[0] for line in lines[1:]] == [
        "- learning_rate",
        "- push_to_hub",
        "- warmup_ratio",
        "- bf16",
    ]


def test_a_value_of_the_wrong_type_is_told_about_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrainingArguments(**{"output_dir": "out", **STEPS, "save_steps": "often", "eval_steps": "rarely"})
    assert str(caught.value).startswith("2 problems")


def test_a_split_batch_must_divide_over_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="per_device_train_batch_size=8 cannot be split over 3 processes"):
        TrainingArguments("out", accelerator_config={"split_batches": True})
