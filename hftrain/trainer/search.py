"""What a hyperparameter search takes when nothing else is given: the objective, and a space for each backend."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from hftrain.errors import PluginUnavailableError

_NO_QUALITY = ("_runtime", "_per_second", "_compilation_time")
_BATCH_SIZES = [4, 8, 16, 32, 64]


def default_compute_objective(metrics: Mapping[str, float]) -> float:
    """Return the sum of an evaluation's metrics, or ``eval_loss`` if that is all there is; speed does not count."""
    quality = {name: value for name, value in metrics.items() if not name.endswith(_NO_QUALITY) and name != "epoch"}
    loss = quality.pop("eval_loss", None)
    return sum(quality.values()) if quality else loss  # type: ignore[return-value]


def default_hp_space_optuna(trial: Any) -> dict[str, Any]:
    """Return what an optuna trial suggests for learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", _BATCH_SIZES),
    }


def default_hp_space_ray(trial: Any) -> dict[str, Any]:
    """Return ray's distributions of learning rate, epochs, seed and batch size.

    Raises:
        PluginUnavailableError: ray's tune is not installed.
    """
    try:
        tune = import_module("ray.tune")
    except ImportError as error:
        raise PluginUnavailableError('default_hp_space_ray needs ray: pip install "ray[tune]"') from error
    return {
        "learning_rate": tune.loguniform(1e-6, 1e-4),
        "num_train_epochs": tune.choice([1, 2, 3, 4, 5]),
        "seed": tune.uniform(1, 40),
        "per_device_train_batch_size": tune.choice(_BATCH_SIZES),
    }


def default_hp_space_sigopt(trial: Any) -> list[dict[str, Any]]:
    """Return SigOpt's parameters for learning rate, epochs, seed and batch size."""
    rate, epochs, seed = {"min": 1e-6, "max": 1e-4}, {"min": 1, "max": 6}, {"min": 1, "max": 40}
    sizes = [str(size) for size in _BATCH_SIZES]
    return [
        {"name": "learning_rate", "type": "double", "bounds": rate, "transformation": "log"},
        {"name": "num_train_epochs", "type": "int", "bounds": epochs},
        {"name": "seed", "type": "int", "bounds": seed},
        {"name": "per_device_train_batch_size", "type": "categorical", "categorical_values": sizes},
    ]


def default_hp_space_wandb(trial: Any) -> dict[str, Any]:
    """Return a W&B sweep over learning rate, epochs, seed and batch size."""
    return {
        "method": "random",
        "metric": {"name": "objective", "goal": "minimize"},
        "parameters": {
            "learning_rate": {"distribution": "uniform", "min": 1e-6, "max": 1e-4},
            "num_train_epochs": {"distribution": "int_uniform", "min": 1, "max": 6},
            "seed": {"distribution": "int_uniform", "min": 1, "max": 40},
            "per_device_train_batch_size": {"values": _BATCH_SIZES},
        },
    }
