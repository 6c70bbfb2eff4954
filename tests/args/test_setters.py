from __future__ import annotations

from typing import Any

import pytest

from hftrain.args.training import TrainingArguments
from hftrain.errors import ConfigurationError

CALLS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "set_training",
        {"learning_rate": "1e-4", "batch_size": 32, "num_epochs": 5, "gradient_checkpointing": True},
        {"do_train": True, "learning_rate": 1e-4, "per_device_train_batch_size": 32, "num_train_epochs": 5},
    ),
    (
        "set_evaluate",
        {"strategy": "steps", "steps": 100},
        {"eval_strategy": "steps", "eval_steps": 100, "do_eval": True},
    ),
    ("set_evaluate", {"batch_size": 4, "loss_only": True}, {"do_eval": False, "prediction_loss_only": True}),
    ("set_testing", {"batch_size": 32}, {"do_predict": True, "per_device_eval_batch_size": 32}),
    ("set_save", {"strategy": "best"}, {"save_strategy": "best", "save_steps": 500}),
    ("set_save", {"steps": 100, "total_limit": 2}, {"save_steps": 100, "save_total_limit": 2}),
    ("set_logging", {"steps": 100}, {"logging_steps": 100, "report_to": [], "logging_nan_inf_filter": False}),
    ("set_optimizer", {"name": "sgd", "beta1": 0.8}, {"optim": "sgd", "adam_beta1": 0.8, "optim_args": None}),
    (
        "set_lr_scheduler",
        {"name": "cosine", "warmup_ratio": 0.05},
        {"lr_scheduler_type": "cosine", "warmup_ratio": 0.05},
    ),
    (
        "set_dataloader",
        {"train_batch_size": 16, "sampler_seed": 5},
        {"per_device_train_batch_size": 16, "data_seed": 5},
    ),
]


@pytest.mark.parametrize(("method", "given", "expected"), CALLS)
def test_a_setter_sets_its_arguments_and_returns_them_all(
    method: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    args = TrainingArguments("out")
    assert getattr(args, method)(**given) is args
    assert {name: getattr(args, name) for name in expected} == expected


def test_what_a_call_leaves_out_is_reset() -> None:
    args = TrainingArguments("out", weight_decay=0.1).set_training(learning_rate=1e-3)
    assert args.weight_decay == 0


@pytest.mark.parametrize("method", ["set_evaluate", "set_save", "set_logging"])
def test_a_strategy_of_steps_needs_steps(method: str) -> None:
    with pytest.raises(ConfigurationError, match="strategy='steps' needs steps, which is 0"):
        getattr(TrainingArguments("out"), method)(strategy="steps", steps=0)


def test_a_wrong_call_changes_nothing() -> None:
    args = TrainingArguments("out")
    before = args.to_dict()
    with pytest.raises(ConfigurationError, match="2 problems"):
        args.set_dataloader(train_batch_size="many", num_workers="some", drop_last=True)  # type: ignore[arg-type]
    assert args.to_dict() == before


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("set_push_to_hub", {"model_id": "me/awesome-model"}),
        ("set_optimizer", {"name": "galore_adamw"}),
    ],
)
def test_what_is_not_available_is_refused_at_once(method: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="does not support this yet"):
        getattr(TrainingArguments("out"), method)(**given)


def test_several_calls_may_pass_through_a_contradiction() -> None:
    args = TrainingArguments("out", load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")
    args.set_evaluate(strategy="steps", steps=100)
    with pytest.raises(ConfigurationError, match="differ"):
        args.validate()
    args.set_save(strategy="steps", steps=200)
    args.validate()


def test_calls_chain() -> None:
    args = TrainingArguments("out").set_training(batch_size=4).set_save(steps=7)
    assert (args.train_batch_size, args.save_steps) == (4, 7)
