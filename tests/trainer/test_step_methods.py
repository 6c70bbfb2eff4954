"""What a step of the Trainer computes: losses, counts, memories, and how it fails."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hftrain import Trainer
from hftrain.errors import ConfigurationError, DataError, TaskError
from tests.trainer.models import Tagger, Tokens, WeightedTagger, token_trainer
from tests.trainer.tasks import Fit, trainer, weights

ACCUMULATED = {"gradient_accumulation_steps": 2, "max_steps": 2}


class Strict(Tagger):
    """Takes no other keyword arguments, so nothing is counted for it."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(input_ids, labels)


class Noting(Trainer):
    """Writes down what training_step is given and gives."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.noted = [*getattr(self, "noted", []), (num_items_in_batch, float(loss))]
        return loss


def noted(folder: Path, model: type[nn.Module] | nn.Module, **changes: Any) -> list[tuple[Any, float]]:
    ours = token_trainer(folder, model, kind=Noting, learning_rate=0.0, **changes)
    ours.train()
    return ours.noted  # type: ignore[attr-defined, no-any-return]


# ---- counting ------------------------------------------------------------------------------------------


def test_the_count_is_that_of_the_labels_in_the_whole_window(tmp_path: Path) -> None:
    counts = [int(count) for count, _ in noted(tmp_path, WeightedTagger, **ACCUMULATED)]
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]
    assert all(16 <= count <= 32 for count in counts)


def test_a_counted_loss_is_not_divided_and_an_uncounted_one_is(tmp_path: Path) -> None:
    once = [loss for _, loss in noted(tmp_path, Strict, max_steps=4)]
    for model, factor in ((Strict, 0.5), (Tagger, 1.0)):
        assert [loss for _, loss in noted(tmp_path, model, **ACCUMULATED)] == pytest.approx(
            [factor * loss for loss in once]
        )


def test_a_weighted_loss_sums_up_to_the_mean_over_the_windows_labels(tmp_path: Path) -> None:
    one = [loss for _, loss in noted(tmp_path, WeightedTagger, max_steps=2, per_device_train_batch_size=8)]
    two = [loss for _, loss in noted(tmp_path, WeightedTagger, **ACCUMULATED)]
    assert [two[0] + two[1], two[2] + two[3]] == pytest.approx(one)


@pytest.mark.parametrize("model", [Strict, Fit])
def test_nothing_is_counted_for_a_model_that_does_not_take_it(tmp_path: Path, model: type[nn.Module]) -> None:
    assert token_trainer(tmp_path, model).model_accepts_loss_kwargs is False


def test_a_model_may_say_that_it_does_not_weight_its_loss(tmp_path: Path) -> None:
    model = Tagger()
    model.accepts_loss_kwargs = False
    assert {count for count, _ in noted(tmp_path, model, **ACCUMULATED)} == {None}


def test_the_trainer_may_be_told_that_the_count_is_not_used(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path, kind=Noting, **ACCUMULATED)
    ours.model_accepts_loss_kwargs = False
    ours.train()
    assert {count for count, _ in ours.noted} == {None}  # type: ignore[attr-defined]


def test_an_uncounted_loss_is_divided_by_all_accumulation_steps_in_a_shorter_window_too(tmp_path: Path) -> None:
    whole = [loss for _, loss in noted(tmp_path, Strict, data=Tokens(12), max_steps=3)]
    losses = [loss for _, loss in noted(tmp_path, Strict, data=Tokens(12), **ACCUMULATED)]
    assert losses == pytest.approx([loss / 2 for loss in whole])


def test_the_number_of_micro_batches_of_the_running_step_can_be_read(tmp_path: Path) -> None:
    class Reading(Noting):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            self.windows = [*getattr(self, "windows", []), self.current_gradient_accumulation_steps]
            return super().training_step(model, inputs, num_items_in_batch)

    ours = token_trainer(tmp_path, kind=Reading, data=Tokens(12), **ACCUMULATED)
    ours.train()
    assert ours.windows == [2, 2, 1]  # type: ignore[attr-defined]


def test_an_override_draws_the_batches_and_counts_as_it_likes(tmp_path: Path) -> None:
    class Drawing(Noting):
        def get_batch_samples(
            self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
        ) -> tuple[list[Any], Any]:
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            return [{**batch, "input_ids": batch["input_ids"] * 0} for batch in batches], torch.tensor(7.0)

    ours = token_trainer(tmp_path, WeightedTagger, kind=Drawing, **ACCUMULATED)
    before = ours.model.embedding.weight.clone()  # type: ignore[union-attr]
    ours.train()
    moved = (ours.model.embedding.weight != before).any(dim=1)  # type: ignore[union-attr]
    assert moved.tolist() == [True] + [False] * 10
    assert {float(count) for count, _ in ours.noted} == {7.0}  # type: ignore[attr-defined]


# ---- a count that is not used --------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture, ours: Trainer) -> list[str]:
    with caplog.at_level(logging.WARNING):
        ours.train()
    return [record.getMessage() for record in caplog.records if "num_items_in_batch" in record.getMessage()]


def test_a_model_that_ignores_the_count_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warnings_of(caplog, token_trainer(tmp_path, **ACCUMULATED))
    assert "Tagger is given num_items_in_batch" in warning
    assert "trainer.model_accepts_loss_kwargs = False" in warning


@pytest.mark.parametrize(
    ("model", "changes"), [(WeightedTagger, ACCUMULATED), (Tagger, {"max_steps": 2}), (Strict, ACCUMULATED)]
)
def test_other_models_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: type[nn.Module], changes: dict[str, Any]
) -> None:
    assert warnings_of(caplog, token_trainer(tmp_path, model, **changes)) == []


def test_the_check_leaves_no_trace(tmp_path: Path) -> None:
    class Dropping(WeightedTagger):
        def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
            torch.rand(1)
            return super().forward(input_ids, labels, **kwargs)

    class Unchecked(Trainer):
        def _prepare_inputs(self, inputs: Any) -> Any:
            return super()._prepare_inputs(inputs)

    states = []
    for kind in (Trainer, Unchecked):
        ours = token_trainer(tmp_path, Dropping, kind=kind, **ACCUMULATED)
        ours.train()
        assert ours.model.calls == 4
        states.append((torch.get_rng_state(), weights(ours.model)))
    assert states[0][0].equal(states[1][0])
    assert states[0][1].equal(states[1][1])


# ---- the loss ------------------------------------------------------------------------------------------


def test_label_smoothing_acts_on_the_logits(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path, label_smoothing_factor=0.3, max_steps=1, learning_rate=0.0)
    batch = next(iter(ours.get_train_dataloader()))
    logits = ours.model(batch["input_ids"])["logits"].detach()
    ours.train()
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.3)
    assert ours.state.log_history[0]["loss"] == pytest.approx(float(expected), abs=1e-4)


def test_a_loss_function_gets_outputs_labels_and_count(tmp_path: Path) -> None:
    given: list[tuple[list[str], torch.Size, int]] = []

    def loss_of(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        given.append((list(outputs), labels.shape, int(num_items_in_batch)))
        logits = outputs["logits"].flatten(0, 1)
        return functional.cross_entropy(logits, labels.flatten(), reduction="sum") / num_items_in_batch

    token_trainer(tmp_path, Strict, parameters={"compute_loss_func": loss_of}, **ACCUMULATED).train()
    assert [(names, shape) for names, shape, _ in given] == [(["logits"], (4, 4))] * 4
    assert given[0][2] == given[1][2] > 16


def test_a_loss_function_may_return_outputs_too(tmp_path: Path) -> None:
    ours = token_trainer(tmp_path)
    batch = next(iter(ours.get_train_dataloader()))
    loss, outputs = ours.compute_loss(ours.model, batch, return_outputs=True)
    assert loss.equal(outputs["loss"])


def test_the_loaders_batch_keeps_its_labels(tmp_path: Path) -> None:
    batches = [{"input_ids": torch.ones(2, 4, dtype=torch.long), "labels": torch.ones(2, 4, dtype=torch.long)}]

    class Given(Trainer):
        def get_train_dataloader(self) -> Any:
            return batches

    token_trainer(tmp_path, kind=Given, label_smoothing_factor=0.1).train()
    assert list(batches[0]) == ["input_ids", "labels"]


def test_outputs_of_the_batch_before_come_back_as_memories(tmp_path: Path) -> None:
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.given: list[float | None] = []

        def forward(self, x: Tensor, mems: Tensor | None = None) -> tuple[Tensor, Tensor]:
            self.given.append(None if mems is None else float(mems))
            return (self.weight * x).mean(), torch.tensor(float(len(self.given)))

    model, rows = Remembering(), [{"x": torch.ones(())} for _ in range(8)]
    token_trainer(tmp_path, model, data=rows, past_index=1, num_train_epochs=2, max_steps=-1).train()
    assert model.given == [None, 1.0, None, 3.0]  # an epoch begins without any


def test_a_memory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="past_index=5, and the model returned 2 outputs"):
        token_trainer(tmp_path, past_index=5).train()


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"label_smoothing_factor": 0.1}, {}),
        ({"past_index": 1}, {}),
        ({}, {"compute_loss_func": lambda outputs, labels, num_items_in_batch: outputs}),
    ],
)
def test_a_task_computes_its_own_loss(tmp_path: Path, changes: dict[str, Any], parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="acts on a plain nn.Module, and Fit is a TaskModule"):
        token_trainer(tmp_path, Fit(), parameters=parameters, **changes)


@pytest.mark.parametrize(
    "name", ["training_step", "compute_loss", "get_batch_samples", "_prepare_inputs", "_prepare_input"]
)
def test_an_override_that_a_task_would_never_reach_is_refused(tmp_path: Path, name: str) -> None:
    own = type("Own", (Trainer,), {name: lambda self, *args, **kwargs: None})
    with pytest.raises(ConfigurationError, match=f"Own overrides {name}, and Fit is a TaskModule.*Fit.training_step"):
        token_trainer(tmp_path, Fit, kind=own)


def test_an_optimizer_with_a_training_mode_is_in_it(tmp_path: Path) -> None:
    class Switching(torch.optim.SGD):
        switched = 0

        def train(self) -> None:
            self.switched += 1

    model = Tagger()
    optimizer = Switching(model.parameters(), lr=0.1)
    token_trainer(tmp_path, model, parameters={"optimizers": (optimizer, None)}).train()
    assert optimizer.switched == 4


# ---- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"tokens": torch.ones(2)}, r"Strict.forward\(.*got an unexpected keyword argument 'tokens'|missing"),
        ({"labels": torch.ones(2)}, "missing a required argument: 'input_ids'"),
        ([torch.ones(2)], r"The batch is \[float32\[2\]\].*data_collator"),
    ],
)
def test_a_batch_that_the_model_does_not_take_is_a_clear_error(tmp_path: Path, batch: Any, message: str) -> None:
    class Given(Trainer):
        def get_train_dataloader(self) -> Any:
            return [batch]

    with pytest.raises(TaskError, match=message):
        token_trainer(tmp_path, Strict, kind=Given).train()


def test_an_error_inside_forward_is_left_as_it_is(tmp_path: Path) -> None:
    class Failing(Tagger):
        def loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
            raise TypeError("mine")

    with pytest.raises(TypeError, match="^mine$"):
        token_trainer(tmp_path, Failing).train()


def test_an_empty_batch_is_a_clear_error(tmp_path: Path) -> None:
    class Given(Trainer):
        def get_train_dataloader(self) -> Any:
            return [{}]

    with pytest.raises(DataError, match="no entries left. Tagger.forward takes input_ids, labels, kwargs"):
        token_trainer(tmp_path, kind=Given).train()


def test_a_loss_per_sample_is_a_clear_error(tmp_path: Path) -> None:
    class Unreduced(Tagger):
        def loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
            return functional.cross_entropy(logits, labels, reduction="none")

    with pytest.raises(TaskError, match=r"compute_loss returned a loss of shape \(16,\)"):
        token_trainer(tmp_path, Unreduced).train()


@pytest.mark.parametrize(("returned", "message"), [(None, "None"), (torch.ones(2), r"a tensor of shape \(2,\)")])
def test_a_step_that_returns_no_loss_is_a_clear_error(tmp_path: Path, returned: Any, message: str) -> None:
    class Returning(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return returned

    with pytest.raises(TaskError, match=f"training_step returned {message}"):
        token_trainer(tmp_path, kind=Returning).train()


def test_a_step_may_take_two_arguments_and_return_its_loss_with_a_graph(tmp_path: Path) -> None:
    class Older(Trainer):
        def training_step(self, model: Any, inputs: Any) -> Tensor:  # type: ignore[override]
            loss: Tensor = model(**self._prepare_inputs(inputs))["loss"]
            self.accelerator.backward(loss)
            return loss.reshape(1)

    ours = token_trainer(tmp_path, Strict, kind=Older)
    ours.train()
    assert all(row["loss"] > 0 for row in ours.state.log_history if "loss" in row)


def test_a_task_still_describes_its_own_mistakes(tmp_path: Path) -> None:
    class Wrong(Fit):
        def training_step(self, batch: dict[str, Tensor]) -> Any:
            return self.net(batch["z"])

    with pytest.raises(TaskError, match="Wrong.training_step failed on the first batch"):
        trainer(tmp_path, Wrong()).train()


def test_signatures_are_the_documented_ones() -> None:
    for name in ("training_step", "compute_loss", "get_batch_samples", "floating_point_ops", "num_tokens"):
        from transformers import Trainer as Reference

        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (Trainer, Reference))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()], name
