"""What a run counts: tokens, operations, and rates of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain import Trainer, TrainerCallback
from tests.trainer.models import Tagger, Tokens, token_trainer
from tests.trainer.tasks import Fit, Points, trainer


class Priced(Tagger):
    """Says what a batch costs."""

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        return 100 * inputs["input_ids"].numel()


class Reading(Tokens):
    """Says how often it was read."""

    reads = 0

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.reads += 1
        return super().__getitem__(index)


def test_tokens_seen_are_in_the_state_and_in_every_row(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path, include_num_input_tokens_seen=True)
    ours.train()
    assert [row["num_input_tokens_seen"] for row in ours.state.log_history] == [16, 32, 48, 64, 64]
    assert all("train_tokens_per_second" in row for row in ours.state.log_history[:-1])
    assert ours.state.num_input_tokens_seen == 64


def test_tokens_are_not_counted_unless_asked_for(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path)
    ours.train()
    assert ours.state.num_input_tokens_seen == 0
    assert not any("tokens" in name for row in ours.state.log_history for name in row)


def test_a_callback_sees_the_tokens_of_each_step(tmp_path: Path) -> None:
    seen: list[int] = []

    class Looking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.num_input_tokens_seen)

    token_trainer(
        tmp_path, parameters={"callbacks": [Looking]}, include_num_input_tokens_seen=True, gradient_accumulation_steps=2
    ).train()
    assert seen == [32, 64, 96, 128]


def test_the_main_input_is_the_one_that_the_model_names(tmp_path: Path) -> None:
    class Pixels(nn.Module):
        main_input_name = "x"

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"loss": (self.weight * x).mean() - y.mean()}

    ours = token_trainer(tmp_path, Pixels, data=Points(16), include_num_input_tokens_seen=True)
    ours.train()
    assert ours.state.num_input_tokens_seen == 4 * 16


def test_batches_without_the_main_input_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, Fit(), include_num_input_tokens_seen=True).train()
    assert "the batches have no tensor 'input_ids'. Set main_input_name" in caplog.text


def test_a_task_counts_its_tokens_too(tmp_path: Path) -> None:
    task = Fit()
    task.main_input_name = "x"  # type: ignore[assignment]
    ours = trainer(tmp_path, task, include_num_input_tokens_seen=True, max_steps=2)
    ours.train()
    assert ours.state.num_input_tokens_seen == 2 * 8 * 4


def test_tokens_per_second_are_of_what_was_read_and_read_nothing_twice(tmp_path: Path) -> None:
    data = Reading(16)
    ours = token_trainer(tmp_path, data=data, include_tokens_per_second=True)
    metrics = ours.train().metrics
    assert metrics["train_tokens_per_second"] == pytest.approx(64 / metrics["train_runtime"], rel=0.2)
    assert data.reads == 16
    assert "num_input_tokens_seen" not in ours.state.log_history[0]


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    options = {"include_num_input_tokens_seen": True, "save_strategy": "steps", "save_steps": 2}
    token_trainer(tmp_path, Priced, **options).train()
    resumed = token_trainer(tmp_path, Priced, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.num_input_tokens_seen == 64
    assert resumed.state.total_flos == 6400


def test_operations_are_summed_up_as_the_model_says(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path, Priced)
    assert ours.train().metrics["total_flos"] == 6400
    assert ours.state.total_flos == ours.state.log_history[-1]["total_flos"] == 6400
    assert ours.current_flos == 0


def test_an_override_says_what_a_batch_costs(tmp_path: Path) -> None:
    class Costly(Trainer):
        def floating_point_ops(self, inputs: dict[str, Any]) -> float:
            return 2.5 * len(inputs["labels"])

    assert token_trainer(tmp_path, Priced, kind=Costly).train().metrics["total_flos"] == 40


def test_a_model_that_does_not_say_costs_nothing(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path)
    assert ours.floating_point_ops({}) == 0
    assert ours.train().metrics["total_flos"] == 0


def test_operations_are_stored_with_each_row_and_checkpoint(tmp_path: Path) -> None:
    stored: list[tuple[int, float]] = []

    class Storing(Trainer):
        def store_flos(self) -> None:
            super().store_flos()
            stored.append((self.state.global_step, self.state.total_flos))

    token_trainer(tmp_path, Priced, kind=Storing, logging_steps=2, save_strategy="steps", save_steps=3).train()
    assert sorted(set(stored)) == [(2, 3200), (3, 4800), (4, 6400)]


def test_a_transformers_model_is_asked_once_for_each_size_of_batch(tmp_path: Path) -> None:
    from tests.parity.models import gpt2, sentences

    model: Any = gpt2()
    per_token = 6 * model.num_parameters(exclude_embeddings=True)
    asked: list[bool] = []
    model.num_parameters = lambda exclude_embeddings: asked.append(exclude_embeddings) or per_token // 6
    ours = token_trainer(tmp_path, model, data=sentences(14), max_steps=8, num_train_epochs=2)
    assert ours.train().metrics["total_flos"] == 2 * 14 * 12 * per_token
    assert asked == [True, True]


def test_tokens_of_a_loader_can_be_counted_by_going_through_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = token_trainer(tmp_path, data=Tokens(10)).get_train_dataloader()
    assert Trainer.num_tokens(loader) == 40
    assert Trainer.num_tokens(loader, max_steps=5) == 80
    with caplog.at_level(logging.WARNING):
        assert Trainer.num_tokens([{"x": torch.ones(2)}]) == 0
    assert "No tokens are counted: {'x': float32[2]} has no input_ids." in caplog.text
