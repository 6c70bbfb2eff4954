"""Arguments of the update act: optimizer, schedule, precision, seeds. `tests/args/argument_table.py` has the map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hftrain import DataModule, Trainer
from hftrain.errors import ConfigurationError
from hftrain.hardware.seeding import rng_state, set_rng_state
from hftrain.optim.adafactor import Adafactor
from tests.trainer.tasks import Fit, Points, arguments, trainer, weights

SQUARED = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 0.0}}


def trained(folder: Path, **changes: Any) -> Trainer:
    ours = trainer(folder, Fit(dropout=0.0), **{"max_steps": 4, **changes})
    ours.train()
    return ours


@pytest.mark.parametrize(
    ("argument", "value", "option", "expected"),
    [
        ("learning_rate", 0.02, "initial_lr", 0.02),
        ("weight_decay", 0.3, "weight_decay", 0.3),
        ("adam_beta1", 0.5, "betas", (0.5, 0.999)),
        ("adam_beta2", 0.5, "betas", (0.9, 0.5)),
        ("adam_epsilon", 0.1, "eps", 0.1),
        ("optim_args", "amsgrad=true", "amsgrad", True),
    ],
)
def test_the_optimizer_is_told_and_updates_otherwise(
    tmp_path: Path, argument: str, value: Any, option: str, expected: Any
) -> None:
    torch.manual_seed(0)
    plain = trained(tmp_path)
    torch.manual_seed(0)
    told = trained(tmp_path, **{argument: value})
    assert told.optimizer is not None
    assert told.optimizer.param_groups[0][option] == expected
    if argument != "optim_args":  # amsgrad differs once a gradient shrinks
        assert not torch.equal(weights(told.model), weights(plain.model))


@pytest.mark.parametrize(
    ("name", "expected", "fused"),
    [
        ("adamw_torch", torch.optim.AdamW, None),
        ("adamw_torch_fused", torch.optim.AdamW, True),
        ("sgd", torch.optim.SGD, None),
        ("adagrad", torch.optim.Adagrad, None),
        ("rmsprop", torch.optim.RMSprop, None),
        ("adafactor", Adafactor, None),
    ],
)
def test_the_optimizer_is_the_one_that_is_named(tmp_path: Path, name: str, expected: type, fused: bool | None) -> None:
    optimizer = trained(tmp_path, optim=name, max_steps=1).optimizer
    assert type(optimizer) is expected
    assert optimizer.defaults.get("fused") is fused


@pytest.mark.parametrize(("norm", "moved_at_most"), [(1e-3, 1.1e-3), (0.0, float("inf"))])
def test_gradients_are_clipped_to_the_norm_or_not_at_all(tmp_path: Path, norm: float, moved_at_most: float) -> None:
    task = Fit(dropout=0.0)
    before = weights(task).clone()
    ours = trainer(tmp_path, task, max_steps=1, logging_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=norm)
    ours.train()
    moved = float((weights(task) - before).norm())
    assert 0 < moved <= moved_at_most
    assert ("grad_norm" in ours.state.log_history[0]) is (norm > 0)
    assert norm > 0 or moved > 0.1


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1.0, 0.75, 0.5, 0.25]),
        ({"lr_scheduler_type": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        (SQUARED, [1.0, 9 / 16, 1 / 4, 1 / 16]),
        ({"warmup_steps": 2}, [0.0, 0.5, 1.0, 0.5]),
        ({"warmup_ratio": 0.5}, [0.0, 0.5, 1.0, 0.5]),
    ],
)
def test_the_learning_rate_follows_the_schedule(tmp_path: Path, changes: dict[str, Any], rates: list[float]) -> None:
    ours = trained(tmp_path, learning_rate=0.01, logging_steps=1, **changes)
    found = [row["learning_rate"] / 0.01 for row in ours.state.log_history if "learning_rate" in row]
    assert found == pytest.approx(rates)


# ---- old spellings ----------------------------------------------------------------------------------


def test_old_spellings_of_batch_sizes_act_in_a_run(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="per_gpu_"):
        ours = trainer(tmp_path, num_train_epochs=1, per_gpu_train_batch_size=16, per_gpu_eval_batch_size=10)
    assert ours.train().global_step == 4
    assert len(ours.get_eval_dataloader()) == 2


def test_the_old_spelling_of_adafactor_acts_in_a_run(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="adafactor"):
        ours = trainer(tmp_path, max_steps=1, adafactor=True)
    ours.train()
    assert type(ours.optimizer) is Adafactor


# ---- precision and compilation ----------------------------------------------------------------------


class Typed(Fit):
    """Notes the type of what it computes and of its weights."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.found: dict[str, torch.dtype] = {}

    def training_step(self, batch: Any) -> Any:
        self.found["training"] = self.net(batch["x"]).dtype
        return super().training_step(batch)

    def eval_step(self, batch: Any) -> dict[str, Any]:
        self.found["evaluation's weights"] = next(self.parameters()).dtype
        return super().eval_step(batch)


@pytest.mark.parametrize(
    ("changes", "training", "evaluation"),
    [
        ({}, torch.float32, torch.float32),
        ({"bf16": True}, torch.bfloat16, torch.float32),
        ({"bf16_full_eval": True}, torch.float32, torch.bfloat16),
        ({"fp16_full_eval": True}, torch.float32, torch.float16),
    ],
)
def test_numbers_have_the_format_that_is_asked_for(
    tmp_path: Path, changes: dict[str, Any], training: torch.dtype, evaluation: torch.dtype
) -> None:
    task = Typed()
    ours = trainer(tmp_path, task, max_steps=1, eval_strategy="epoch", **changes)
    ours.train()
    assert task.found == {"training": training, "evaluation's weights": evaluation}
    assert next(task.parameters()).dtype is torch.float32


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, []),
        ({"torch_compile": True}, [{"backend": "inductor"}]),
        ({"torch_compile_backend": "eager"}, [{"backend": "eager"}]),
        (
            {"torch_compile_mode": "reduce-overhead"},
            [{"backend": "inductor", "mode": "reduce-overhead"}],
        ),
    ],
)
def test_the_training_step_is_compiled_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], options: list[dict[str, Any]]
) -> None:
    found: list[dict[str, Any]] = []

    def compiling(call: Any, **kwargs: Any) -> Any:  # what torch does with its options is torch's
        found.append(kwargs)
        return call

    monkeypatch.setattr(torch, "compile", compiling)
    trained(tmp_path, max_steps=1, **changes)
    assert found == options


def test_the_old_spelling_of_the_compile_backend_acts_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda call, *, backend: found.append(backend) or call)
    with pytest.warns(FutureWarning, match="torchdynamo"):
        ours = trainer(tmp_path, max_steps=1, torchdynamo="eager")
    ours.train()
    assert found == ["eager"]


class Recomputing(Fit):
    """Recomputes its activations in backward once that is enabled, and counts its forwards."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.recompute: dict[str, Any] | None = None
        self.num_forwards = 0

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        self.recompute = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}

    def training_step(self, batch: Any) -> Any:
        return super().training_step(batch) if self.recompute is None else self._recomputed(batch)

    def _recomputed(self, batch: Any) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            self.num_forwards += 1
            return (self.net(x).squeeze(1) - batch["y"]).square().mean()

        return checkpoint(loss, batch["x"], **(self.recompute or {}))  # type: ignore[no-any-return]


def test_gradient_checkpointing_recomputes_and_passes_its_keyword_arguments_on(tmp_path: Path) -> None:
    off, on = Recomputing(), Recomputing()
    trainer(tmp_path, off, max_steps=1).train()
    kwargs = {"preserve_rng_state": False}
    trainer(tmp_path, on, max_steps=1, gradient_checkpointing=True, gradient_checkpointing_kwargs=kwargs).train()
    assert (off.recompute, on.recompute) == (None, {"use_reentrant": False, "preserve_rng_state": False})
    assert on.num_forwards == 2


def test_gradient_checkpointing_of_a_model_that_has_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs a model with gradient_checkpointing_enable"):
        trainer(tmp_path, gradient_checkpointing=True).train()


# ---- seeds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "seed"), [({}, 42), ({"seed": 3}, 3), ({"data_seed": 7}, 7), ({"seed": 3, "data_seed": 7}, 7)]
)
def test_the_order_of_an_epoch_follows_from_its_seed(tmp_path: Path, changes: dict[str, Any], seed: int) -> None:
    data = Points()
    trainer(tmp_path, data=DataModule(train=data), num_train_epochs=1, **changes).train()
    assert data.fetched == torch.randperm(64, generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("seed", [3, 4])
def test_a_new_model_follows_from_the_seed(tmp_path: Path, seed: int) -> None:
    ours = Trainer(args=arguments(tmp_path, seed=seed), model_init=Fit, train_dataset=Points())
    torch.manual_seed(seed)
    assert torch.equal(weights(ours.model), weights(Fit()))


@pytest.fixture
def _switches_are_restored() -> Iterator[None]:
    generators, environment = rng_state(), dict(os.environ)
    yield
    set_rng_state(generators)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("_switches_are_restored")
@pytest.mark.parametrize("is_full", [True, False])
def test_a_run_may_be_fully_deterministic(tmp_path: Path, is_full: bool) -> None:
    trainer(tmp_path, full_determinism=is_full, max_steps=1).train()
    assert torch.are_deterministic_algorithms_enabled() is is_full
