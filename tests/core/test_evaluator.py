from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain.core.evaluator import Collected, Evaluator, TaskStep
from hftrain.core.task import TaskModule
from hftrain.data.epochs import EpochLoader
from hftrain.errors import TaskError
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings
from hftrain.types.choices import Event

ENGINE = create_engine(EngineSettings(accelerator="cpu"))
BATCHES = [torch.full((size, 1), float(size)) for size in (4, 4, 1)]


class Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event, **extra: Any) -> None:
        self.events.append(event)


def identity(batch: Tensor, size: int) -> dict[str, Any]:
    return {"loss": batch.mean(), "preds": batch, "target": batch.squeeze(1)}


def run(step: Any, sinks: Any = (), batches: Any = BATCHES) -> Any:
    return Evaluator(engine=ENGINE, events=Heard()).run(EpochLoader(batches), step, sinks)


class Twice(TaskModule):
    """A step that logs, and answers with twice its input."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Dropout().eval()

    def eval_step(self, batch: Tensor) -> dict[str, Any]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.log("seen", batch.sum(), weight=1)
        return {"loss": batch.mean(), "preds": 2 * batch}


def test_the_loss_weights_every_sample_alike() -> None:
    outcome = run(identity)
    assert outcome.loss == pytest.approx((4 * 4 + 4 * 4 + 1) / 9)
    assert (outcome.num_samples, outcome.num_batches, outcome.metrics) == (9, 3, {})


def test_a_step_without_loss_has_no_mean() -> None:
    assert run(lambda batch, size: {"preds": batch}).loss is None


def test_many_losses_are_kept_in_blocks() -> None:
    assert run(identity, batches=[torch.full((1, 1), float(n)) for n in range(600)]).loss == pytest.approx(299.5)


def test_listeners_hear_of_every_batch() -> None:
    heard = Heard()
    Evaluator(engine=ENGINE, events=heard).run(EpochLoader(BATCHES), identity)
    assert heard.events == 3 * [Event.PREDICTION_STEP]


def test_sinks_are_told_which_batch_is_the_last() -> None:
    class Last:
        found: list[bool] = []

        def add(self, output: Any, size: int, *, is_last: bool) -> None:
            self.found.append(is_last)

        def compute(self) -> dict[str, Any]:
            return {"batches": len(self.found)}

    sink = Last()
    assert run(identity, [sink]).metrics == {"batches": 3}
    assert sink.found == [False, False, True]


def test_outputs_are_collected_and_measured_at_the_end() -> None:
    kept = Collected(ENGINE, ["preds", "target"], function=lambda answers: {"rows": len(answers.predictions)})
    assert run(identity, [kept]).metrics == {"rows": 9}
    assert (kept.arrays["preds"].shape, kept.arrays["target"].shape) == ((9, 1), (9,))


def test_a_function_may_measure_each_batch_and_nothing_is_kept() -> None:
    def measure(answers: Any, compute_result: bool) -> Any:
        return {"last": len(answers.predictions)} if compute_result else None

    kept = Collected(ENGINE, ["preds", "target"], is_kept=False, function=measure, each_batch=True)
    assert run(identity, [kept]).metrics == {"last": 1}
    assert kept.arrays == {}


def test_a_task_is_in_eval_mode_inside_only_and_logs_means() -> None:
    task = Twice().train()
    task.frozen.eval()
    ENGINE.place(task)
    with TaskStep(task, ENGINE) as step:
        outcome = run(step, [step])
    assert outcome.metrics == {"seen": pytest.approx((16 + 16 + 1) / 3)}
    assert (task.training, task.frozen.training) == (True, False)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (1.0, "Broken.eval_step returned float. Return a dict"),
        ({"loss": torch.ones(3)}, r'returned a "loss" of float32\[3\]; it must be a scalar'),
        ({"loss": torch.tensor(1.0)}, r"returned \['loss'\], without 'preds', which predict\(\) collects"),
    ],
)
def test_a_step_that_answers_wrongly_is_named(output: Any, said: str) -> None:
    class Broken(TaskModule):
        def eval_step(self, batch: Any) -> Any:
            return output

    task = Broken()
    ENGINE.place(task)
    with pytest.raises(TaskError, match=said), TaskStep(task, ENGINE, needs_preds="scalar" not in said) as step:
        run(step)


def test_batches_are_drawn_one_ahead_as_they_come() -> None:
    drawn: list[int] = []

    def batches() -> Iterator[Tensor]:
        for number in range(3):
            drawn.append(number)
            yield torch.ones(1, 1)

    class Loader:
        def __iter__(self) -> Iterator[Tensor]:
            return batches()

    seen: list[int] = []
    run(lambda batch, size: seen.append(len(drawn)) or {}, batches=Loader())
    assert seen == [2, 3, 3]
