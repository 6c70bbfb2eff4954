"""The defaults of a search beside the reference's."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from transformers import trainer_utils as reference

from hftrain.errors import PluginUnavailableError
from hftrain.trainer import search


class Trial:
    """Answers as an optuna trial does, with what it was asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: (name, args, kwargs)


@pytest.mark.parametrize(
    "metrics",
    [
        {"eval_loss": 0.5, "epoch": 1.0, "eval_runtime": 2.0, "eval_samples_per_second": 9.0},
        {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_f1": 0.25, "eval_steps_per_second": 3.0, "epoch": 2},
        {"eval_accuracy": 0.75, "eval_jit_compilation_time": 7.0},
    ],
)
def test_the_objective_is_the_references(metrics: dict[str, float]) -> None:
    assert search.default_compute_objective(metrics) == reference.default_compute_objective(metrics)


def test_the_metrics_are_left_as_they_are() -> None:
    metrics = {"eval_loss": 0.5, "epoch": 1.0}
    search.default_compute_objective(metrics)
    assert metrics == {"eval_loss": 0.5, "epoch": 1.0}


def test_the_spaces_of_sigopt_and_optuna_are_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.is_optuna_available", lambda: True)
    assert search.default_hp_space_optuna(Trial()) == reference.default_hp_space_optuna(Trial())
    assert search.default_hp_space_sigopt(None) == reference.default_hp_space_sigopt(None)


def test_the_space_of_wandb_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.is_wandb_available", lambda: True)
    assert search.default_hp_space_wandb(None) == reference.default_hp_space_wandb(None)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_the_space_of_ray_says_what_to_install() -> None:
    with pytest.raises(PluginUnavailableError, match=r'pip install "ray\[tune\]"'):
        search.default_hp_space_ray(None)
