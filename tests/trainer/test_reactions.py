"""`_maybe_log_save_evaluate` overridden as the reference's loop calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hftrain import Trainer
from tests.trainer.tasks import Fit, Model, Points, arguments, trainer


class OwnRows(Trainer):
    """Writes its own rows with a column more, from what it is given, and evaluates and saves as the default does."""

    def _maybe_log_save_evaluate(
        self,
        tr_loss: Tensor,
        grad_norm: Any,
        model: Any,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: Any,
        start_time: float,
        learning_rate: Any = None,
    ) -> None:
        if self.control.should_log and self.state.global_step > self._globalstep_last_logged:
            loss = self._nested_gather(tr_loss).mean().item()
            tr_loss -= tr_loss
            steps = self.state.global_step - self._globalstep_last_logged
            row = {"loss": round(loss / steps, 4), "grad_norm": float(grad_norm), "learning_rate": learning_rate}
            self._total_loss_scalar += loss
            self._globalstep_last_logged = self.state.global_step
            self.log({**row, "steps": steps})
        if self.control.should_evaluate:
            self._determine_best_metric(metrics=self._evaluate(trial, ignore_keys_for_eval), trial=trial)
        if self.control.should_save:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)


class Watching(Trainer):
    """Notes the loss so far after every step and lets the default react."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[float] = []

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.seen.append(tr_loss.item())
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)


def run(kind: type[Trainer], folder: Path, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    often = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 8, "logging_steps": 3}
    args = arguments(folder, **{"max_steps": 8, **often, **changes})
    made = kind(Model(), args, train_dataset=Points(), eval_dataset=Points(8))
    made.train()
    return made


def without_times(trainer: Trainer) -> list[dict[str, Any]]:
    differing = ("steps", "runtime", "per_second")
    rows = trainer.state.log_history
    return [{key: row[key] for key in row if key != "steps" and not key.endswith(differing)} for row in rows]


@pytest.mark.parametrize("kind", [OwnRows, Watching])
def test_the_rows_are_those_of_the_default(tmp_path: Path, kind: type[Trainer]) -> None:
    plain, own = run(Trainer, tmp_path / "a"), run(kind, tmp_path / "b")
    assert without_times(own) == without_times(plain)
    assert sorted(path.name for path in (tmp_path / "b").glob("checkpoint-*")) == ["checkpoint-8"]


def test_an_override_that_logs_ends_the_window(tmp_path: Path) -> None:
    rows = run(OwnRows, tmp_path).state.log_history
    assert [row["steps"] for row in rows if "steps" in row] == [3, 3]


def test_the_loss_so_far_is_that_of_the_open_window(tmp_path: Path) -> None:
    watching = run(Watching, tmp_path, eval_strategy="no")
    first = watching.seen[2]
    assert watching.state.log_history[0]["loss"] == round(first / 3, 4)
    assert watching.seen[0] < watching.seen[1] < first
    assert watching.seen[3] < first


def test_losses_that_are_not_finite_are_left_out_as_in_rows(tmp_path: Path) -> None:
    class Spoiled(Watching):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan") if self.state.global_step == 1 else loss

    spoiled = run(Spoiled, tmp_path, eval_strategy="no", max_steps=2, logging_steps=2, learning_rate=0.0)
    assert spoiled.seen[1] == pytest.approx(2 * spoiled.seen[0])
    assert run(Spoiled, tmp_path, eval_strategy="no", max_steps=2, logging_nan_inf_filter=False).seen[1] != 0


def test_a_task_is_reacted_to_as_well(tmp_path: Path) -> None:
    watching = Watching(Fit(), arguments(tmp_path, max_steps=2), train_dataset=Points())
    watching.train()
    assert len([loss for loss in watching.seen if loss > 0]) >= 2
    assert trainer(tmp_path, max_steps=1).train().global_step == 1


def test_rows_show_the_learning_rate_that_an_override_gives(tmp_path: Path) -> None:
    class Own(Trainer):
        def _get_learning_rate(self) -> float:
            return 2 * super()._get_learning_rate()

    plain, own = run(Trainer, tmp_path / "a"), run(Own, tmp_path / "b")
    rates = [[row["learning_rate"] for row in made.state.log_history if "loss" in row] for made in (plain, own)]
    assert [2 * rate for rate in rates[0]] == rates[1]
