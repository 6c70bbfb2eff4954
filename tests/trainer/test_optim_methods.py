"""How the Trainer makes its optimizer and schedule, and what an override changes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hftrain import Trainer
from hftrain.errors import ConfigurationError
from tests.trainer.models import token_trainer
from tests.trainer.tasks import arguments


def test_the_optimizer_of_the_arguments_can_be_asked_for(tmp_path: Path) -> None:
    asked = Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, adam_beta1=0.5, learning_rate=0.2))
    assert asked == (torch.optim.AdamW, {"lr": 0.2, "betas": (0.5, 0.999), "eps": 1e-8})


def test_the_reference_answers_the_same(tmp_path: Path) -> None:
    from transformers import Trainer as Reference
    from transformers import TrainingArguments as ReferenceArguments

    for optim in ("adamw_torch", "sgd", "adagrad", "rmsprop", "adamw_torch_fused"):
        theirs = Reference.get_optimizer_cls_and_kwargs(ReferenceArguments(str(tmp_path), optim=optim, use_cpu=True))
        ours = Trainer.get_optimizer_cls_and_kwargs(arguments(tmp_path, optim=optim, learning_rate=5e-5))
        assert ours == theirs, optim


def test_an_override_of_class_and_arguments_acts(tmp_path: Path) -> None:
    class Own(Trainer):
        @staticmethod
        def get_optimizer_cls_and_kwargs(args: Any, model: nn.Module | None = None) -> Any:
            assert model is not None
            return torch.optim.SGD, {"lr": args.learning_rate, "momentum": 0.25}

    optimizer = token_trainer(tmp_path, kind=Own).create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["momentum"] == 0.25


@pytest.mark.parametrize("name", ["params", "model", "optimizer_dict"])
def test_an_override_may_choose_the_parameters(tmp_path: Path, name: str) -> None:
    class Own(Trainer):
        def get_optimizer_cls_and_kwargs(self, args: Any, model: Any = None) -> Any:  # type: ignore[override]
            return torch.optim.SGD, {"lr": 0.1, name: [{"params": [model.head.bias], "lr": 0.5}]}

    ours = token_trainer(tmp_path, kind=Own)
    optimizer = ours.create_optimizer()
    assert [(group["params"][0] is ours.model.head.bias, group["lr"]) for group in optimizer.param_groups] == [  # type: ignore[union-attr]
        (True, 0.5)
    ]


def test_class_and_arguments_given_to_the_trainer_win(tmp_path: Path) -> None:
    given = (torch.optim.SGD, {"lr": 0.3})
    ours = token_trainer(tmp_path, parameters={"optimizer_cls_and_kwargs": given}, weight_decay=0.1)
    optimizer = ours.create_optimizer()
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.3, 0.1), (0.3, 0.0)]


def test_arguments_that_a_class_does_not_take_are_a_clear_error(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path, parameters={"optimizer_cls_and_kwargs": (torch.optim.SGD, {"beta": 1})})
    with pytest.raises(ConfigurationError, match=r"SGD\(beta=1\) was refused"):
        ours.create_optimizer()


def test_asking_before_there_is_an_optimizer_is_a_value_error(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path)
    for ask in (ours.get_learning_rates, ours.get_optimizer_group):
        with pytest.raises(ValueError, match="The optimizer does not exist yet"):
            ask()


def test_groups_and_rates_can_be_asked_for(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path, weight_decay=0.1)
    ours.create_optimizer_and_scheduler(num_training_steps=10)
    assert ours.get_learning_rates() == [0.01, 0.01]
    assert ours.get_optimizer_group("head.bias")["weight_decay"] == 0.0
    assert ours.get_optimizer_group(ours.model.head.weight)["weight_decay"] == 0.1  # type: ignore[union-attr, arg-type]
    assert [len(params) for params in ours.get_optimizer_group()] == [2, 1]
    assert ours.get_num_trainable_parameters() == 11 * 4 + 4 * 11 + 11


def test_signatures_are_the_documented_ones() -> None:
    from transformers import Trainer as Reference

    for name in (
        "create_optimizer",
        "create_scheduler",
        "create_optimizer_and_scheduler",
        "get_optimizer_cls_and_kwargs",
        "get_decay_parameter_names",
        "get_learning_rates",
        "get_num_trainable_parameters",
        "get_optimizer_group",
    ):
        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (Trainer, Reference))
        if name == "get_decay_parameter_names":
            assert list(ours) == list(theirs)
            continue
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()], name
