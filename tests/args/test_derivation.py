from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hftrain.args.training import TrainingArguments

PLATEAU = "reduce_lr_on_plateau"


@pytest.mark.parametrize(
    ("given", "follows"),
    [
        ({"output_dir": None}, {"output_dir": "trainer_output", "run_name": "trainer_output"}),
        ({}, {"run_name": "out", "local_rank": 0, "do_eval": False, "eval_steps": None}),
        ({"run_name": "mine"}, {"run_name": "mine"}),
        ({"eval_strategy": "epoch"}, {"do_eval": True, "eval_steps": None}),
        ({"eval_strategy": "steps", "logging_steps": 7}, {"eval_steps": 7}),
        ({"eval_strategy": "steps", "eval_steps": 3}, {"eval_steps": 3}),
        ({"eval_strategy": "steps", "eval_steps": 0}, {"eval_steps": 500}),
        ({"metric_for_best_model": "accuracy"}, {"greater_is_better": True}),
        ({"metric_for_best_model": "eval_loss"}, {"greater_is_better": False}),
        ({"metric_for_best_model": "myloss"}, {"greater_is_better": False}),
        ({"metric_for_best_model": "loss", "greater_is_better": True}, {"greater_is_better": True}),
        ({"greater_is_better": True}, {"metric_for_best_model": None, "greater_is_better": True}),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
            {"metric_for_best_model": "loss", "greater_is_better": False},
        ),
        (
            {"lr_scheduler_type": PLATEAU, "eval_strategy": "epoch"},
            {"metric_for_best_model": "loss", "greater_is_better": False},
        ),
        ({"use_cpu": True}, {"dataloader_pin_memory": False}),
        ({"torch_compile": True}, {"torch_compile_backend": "inductor"}),
        ({"torch_compile_backend": "eager"}, {"torch_compile": True}),
        ({"torch_compile_mode": "default"}, {"torch_compile": True, "torch_compile_backend": "inductor"}),
        ({"save_total_limit": 0}, {"save_total_limit": None}),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}},
            {"gradient_accumulation_steps": 4},
        ),
    ],
)
def test_what_nobody_set_follows(given: dict[str, Any], follows: dict[str, Any]) -> None:
    args = TrainingArguments(**{"output_dir": "out", **given})
    assert {name: getattr(args, name) for name in follows} == follows


def test_the_log_folder_is_dated_and_named_after_the_machine() -> None:
    from transformers import TrainingArguments as Reference

    ours, theirs = TrainingArguments("~/out"), Reference("~/out")
    assert ours.logging_dir is not None
    for taken, expected in zip(re.split("[-_:]", ours.logging_dir), re.split("[-_:]", theirs.logging_dir), strict=True):
        assert taken == expected or taken.isdigit()
    assert TrainingArguments("out", logging_dir="~/logs").logging_dir == str(Path("~/logs").expanduser())


def best() -> TrainingArguments:
    return TrainingArguments("out", load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")


def test_what_was_filled_in_follows_a_change() -> None:
    args = best()
    args.metric_for_best_model = "accuracy"
    args.validate()
    assert args.greater_is_better is True


def test_what_was_given_stays_after_a_change() -> None:
    args = best()
    args.metric_for_best_model, args.greater_is_better = "perplexity", False
    args.validate()
    assert args.greater_is_better is False


def test_filling_in_twice_changes_nothing() -> None:
    args = best()
    before = args.to_dict()
    args.validate()
    assert args.to_dict() == before


def test_what_was_filled_in_goes_away_with_its_reason() -> None:
    args = TrainingArguments("out", eval_strategy="steps", logging_steps=7, use_cpu=True)
    args.eval_strategy, args.use_cpu = "no", False
    args.validate()
    assert (args.eval_steps, args.do_eval, args.dataloader_pin_memory) == (None, False, True)


def test_the_local_rank_is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert TrainingArguments("out").local_rank == 1
