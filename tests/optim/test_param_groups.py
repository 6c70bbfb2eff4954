from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as untyped_transformers
from torch import nn

from hftrain.optim.param_groups import decay_parameter_names, param_groups

transformers: Any = untyped_transformers


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    return transformers.BertForMaskedLM(config)  # its decoder is tied to the word embeddings


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return transformers.LlamaForCausalLM(config)  # its norms are known by their names only


def plain() -> nn.Module:
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(1, 2, 3),
        "bn": nn.BatchNorm2d(2),
        "ln": nn.LayerNorm(2),
        "last": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2)),
    }
    return nn.ModuleDict(layers)


class OddlyNamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        names = ["norm", "xnorm", "my_norm", "norm1", "norm_x", "LayerNormB", "RMSNorm", "bias_layer", "q"]
        for name in names:
            self.add_module(name, nn.Linear(1, 1))
        self.rms = nn.RMSNorm(2)
        self.free = nn.Parameter(torch.zeros(1))
        self.w_norm = nn.Parameter(torch.zeros(1))
        self.norm_ = nn.Parameter(torch.zeros(1))
        self.listed = nn.ParameterList([nn.Parameter(torch.zeros(1))])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.shared = nn.Sequential(self.head, nn.Linear(5, 5))


MODELS = [bert, llama, plain, OddlyNamed, Tied]


def reference_groups(module: nn.Module) -> list[list[str]]:
    """The names of the two groups that transformers' Trainer makes."""
    args = transformers.TrainingArguments(output_dir="unused", weight_decay=0.1, use_cpu=True, report_to="none")
    trainer = SimpleNamespace(args=args, model=module, optimizer=None, optimizer_cls_and_kwargs=None)
    trainer.get_decay_parameter_names = lambda model: transformers.Trainer.get_decay_parameter_names(trainer, model)
    trainer.get_optimizer_cls_and_kwargs = transformers.Trainer.get_optimizer_cls_and_kwargs
    optimizer = transformers.Trainer.create_optimizer(trainer)
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize("make", MODELS)
def test_names_of_decay_parameters_are_those_of_the_reference(make: Callable[[], nn.Module]) -> None:
    module = make()
    expected = transformers.Trainer.get_decay_parameter_names(None, module)
    assert decay_parameter_names(module) == expected


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", MODELS)
def test_groups_hold_the_references_parameters_in_its_order(make: Callable[[], nn.Module]) -> None:
    module = make()
    next(iter(module.parameters())).requires_grad_(False)
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = param_groups(module, weight_decay=0.1)
    assert [[names[parameter] for parameter in group["params"]] for group in groups] == reference_groups(module)


def test_the_group_that_decays_comes_first() -> None:
    first, second = param_groups(nn.Linear(2, 3), 0.1)
    assert [parameter.shape for parameter in first["params"]] == [(3, 2)]
    assert [parameter.shape for parameter in second["params"]] == [(3,)]
    assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)


def test_a_frozen_model_has_two_empty_groups() -> None:
    module = nn.Linear(2, 2).requires_grad_(False)
    assert [group["params"] for group in param_groups(module, 0.1)] == [[], []]


def test_a_tied_parameter_comes_once() -> None:
    module = Tied()
    parameters = [parameter for group in param_groups(module, 0.1) for parameter in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(module.parameters()))


def test_given_names_replace_the_rule() -> None:
    first, second = param_groups(nn.Linear(2, 3), 0.1, decay_names=["bias"])
    assert [parameter.shape for parameter in first["params"]] == [(3,)]
    assert [parameter.shape for parameter in second["params"]] == [(3, 2)]
