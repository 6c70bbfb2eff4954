from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as untyped_transformers
from torch import nn

from hftrain.errors import ConfigurationError, NotAvailableError
from hftrain.optim.adafactor import Adafactor
from hftrain.optim.optimizers import (
    OPTIMIZERS,
    OptimizerSettings,
    build_optimizer,
    optimizer_class_and_kwargs,
    parse_optim_args,
)
from hftrain.optim.param_groups import param_groups

transformers: Any = untyped_transformers

VALUES: dict[str, Any] = {"learning_rate": 3e-4, "weight_decay": 0.01}
ADAM: dict[str, Any] = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-7}


def settings(name: str, optim_args: str | None = None) -> OptimizerSettings:
    return OptimizerSettings(name=name, **VALUES, **ADAM, args=parse_optim_args(optim_args))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_class_and_kwargs_are_those_of_the_reference(name: str) -> None:
    adam = {f"adam_{key}": value for key, value in ADAM.items()}
    args = transformers.TrainingArguments(
        output_dir="unused", optim=name, use_cpu=True, report_to="none", **VALUES, **adam
    )
    expected_class, expected = transformers.Trainer.get_optimizer_cls_and_kwargs(args)
    made, kwargs = optimizer_class_and_kwargs(settings(name))
    assert (made.__name__, kwargs) == (expected_class.__name__, expected)


def test_adafactor_is_ours() -> None:
    assert optimizer_class_and_kwargs(settings("adafactor"))[0] is Adafactor


@pytest.mark.parametrize(
    ("name", "optim_args", "expected"),
    [
        ("sgd", "momentum=0.9, nesterov=True", {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", "alpha=0.9,centered=1,eps=1e-6", {"alpha": 0.9, "centered": True, "eps": 1e-6}),
        ("adagrad", "lr_decay=0.1", {"lr_decay": 0.1}),
        ("adamw_torch", "amsgrad=true,foreach=false", {"amsgrad": True, "foreach": False}),
        ("adafactor", "beta1=0.9,scale_parameter=True", {"beta1": 0.9, "scale_parameter": True}),
    ],
)
def test_optim_args_reach_the_optimizer_in_their_types(name: str, optim_args: str, expected: dict[str, Any]) -> None:
    plain = optimizer_class_and_kwargs(settings(name))[1]
    kwargs = optimizer_class_and_kwargs(settings(name, optim_args))[1]
    assert kwargs == {**plain, **expected}
    assert [type(kwargs[key]) for key in expected] == [type(value) for value in expected.values()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_of_the_table_is_taken_by_the_optimizer(name: str) -> None:
    optimizer = build_optimizer(settings(name), param_groups(nn.Linear(2, 2), 0.01))
    assert set(OPTIMIZERS[name].options) <= set(optimizer.defaults)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_built_optimizer_trains_and_keeps_the_decay_of_its_groups(name: str) -> None:
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    optimizer = build_optimizer(settings(name), param_groups(module, 0.01))
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(module.weight, before)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


@pytest.mark.parametrize(
    ("text", "parsed"), [(None, {}), ("", {}), ("a=1", {"a": "1"}), (" a = 1 , b=x", {"a": "1", "b": "x"})]
)
def test_optim_args_are_read_as_names_and_texts(text: str | None, parsed: dict[str, str]) -> None:
    assert parse_optim_args(text) == parsed


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=1,", "a=1=2", "a=1,a=2", " "])
def test_malformed_optim_args_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="optim_args="):
        parse_optim_args(text)


@pytest.mark.parametrize(
    ("name", "optim_args", "message"),
    [
        ("sgd", "mometum=0.9", "mometum=0.9, which optim='sgd' does not take.*momentum"),
        ("adamw_torch", "lr=1", "Set learning_rate instead"),
        ("adamw_torch", "weight_decay=1", "Set weight_decay instead"),
        ("adamw_torch", "eps=1", "Set adam_epsilon instead"),
        ("sgd", "momentum=high", "Write a number"),
        ("sgd", "nesterov=2", "Write true or false"),
    ],
)
def test_an_optim_arg_that_cannot_be_used_is_refused(name: str, optim_args: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        optimizer_class_and_kwargs(settings(name, optim_args))


def test_a_documented_optimizer_that_is_not_here_is_not_available() -> None:
    with pytest.raises(
        NotAvailableError, match="optim='lomo' is not available in this version. Set one of adamw_torch"
    ):
        optimizer_class_and_kwargs(settings("lomo"))


def test_a_misspelt_optimizer_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'adamw_torch'"):
        optimizer_class_and_kwargs(settings("adamw_troch"))


def test_an_enum_of_the_reference_is_a_name() -> None:
    name = transformers.training_args.OptimizerNames.SGD
    assert optimizer_class_and_kwargs(settings(name))[0] is torch.optim.SGD


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing to train"):
        build_optimizer(settings("sgd"), param_groups(nn.Linear(2, 2).requires_grad_(False), 0.0))


def test_what_the_optimizer_refuses_names_optim_and_its_arguments() -> None:
    with pytest.raises(ConfigurationError, match=r"SGD\(.*nesterov=True.*refused"):
        build_optimizer(settings("sgd", "nesterov=true"), param_groups(nn.Linear(2, 2), 0.0))
