from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain.core.task import TaskModule
from hftrain.errors import TaskError
from hftrain.hardware.engine import Engine, create_engine
from hftrain.hardware.settings import EngineSettings


class Line(TaskModule):
    def __init__(self, width: int = 2, *, bias: bool = True, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1, bias=bias)

    def training_step(self, batch: Any) -> Any:
        return {"loss": self.layer(batch).mean(), "size": batch.shape[0]}


def engine_for(task: TaskModule) -> Engine:
    engine = create_engine(EngineSettings(accelerator="cpu"))
    engine.wrap(task, steps=("training_step",))
    return engine


def first_step(task: TaskModule, batch: Any, num_items: Tensor | None = None) -> Tensor:
    task.bind(engine_for(task), training=True)
    task.begin_step(1)
    return task.forward_backward(batch, num_items)


def test_constructor_arguments_are_recorded_as_json() -> None:
    task = Line(3, options={"a": (1, 2)})
    assert task.init_arguments == {"width": 3, "options": {"a": [1, 2]}}


def test_an_argument_that_is_not_json_is_named() -> None:
    with pytest.raises(TaskError, match=r"Line\(options=...\) got a dict, which is not JSON"):
        Line(options={"f": print})


def test_a_positional_rest_cannot_be_recorded() -> None:
    class Widths(TaskModule):
        def __init__(self, *widths: int) -> None:
            super().__init__()

    with pytest.raises(TaskError, match=r"takes \*widths"):
        Widths(1, 2)


def test_wrong_arguments_raise_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        Line(depth=3)  # type: ignore[call-arg]


def test_a_copy_keeps_the_record_and_leaves_the_run_behind() -> None:
    task = Line(3)
    task.bind(engine_for(task), training=True)
    twin = copy.deepcopy(task)
    assert twin.init_arguments == {"width": 3}
    assert twin._run is None


def test_forward_backward_accumulates_gradients_and_returns_the_share() -> None:
    task = Line()
    task.bind(engine_for(task), training=True)
    task.begin_step(2)
    batch = torch.ones(4, 2)
    shares = [task.forward_backward(batch, None) for _ in range(2)]
    loss = task.layer(batch).mean()
    assert torch.stack(shares).sum().item() == pytest.approx(loss.item())
    assert task.layer.weight.grad is not None
    assert torch.allclose(task.layer.weight.grad, torch.ones(1, 2))


def test_scalars_beside_the_loss_are_metered() -> None:
    task = Line()
    run = task.bind(engine_for(task), training=True)
    task.begin_step(1)
    for size in (2, 4):
        task.forward_backward(torch.ones(size, 2), None)
    assert run.meters.close(lambda sums: [sums]) == {"size": 3.0}


def test_logging_outside_a_run_does_nothing() -> None:
    Line().log("x", 1.0)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda task, batch: task.layer(batch), r"loss of shape \(4, 1\); it must be a scalar"),
        (lambda task, batch: task.layer(batch).mean().detach(), "does not require grad"),
        (lambda task, batch: 0.5, "returned float"),
        (lambda task, batch: {"accuracy": 1.0}, 'without "loss"'),
        (lambda task, batch: {"loss": task.layer(batch).mean(), "x": batch}, "must be a scalar to average"),
        (lambda task, batch: task.layer(batch["x"]).mean(), r"failed on the first batch, which is float32\[4, 2\]"),
    ],
)
def test_a_wrong_first_step_says_what_is_wrong(output: Any, message: str) -> None:
    class Wrong(Line):
        def training_step(self, batch: Any) -> Any:
            return output(self, batch)

    with pytest.raises(TaskError, match=message):
        first_step(Wrong(), torch.ones(4, 2))


def test_a_step_that_names_num_items_gets_the_count() -> None:
    class Counted(Line):
        def training_step(self, batch: Any, num_items: Tensor) -> Tensor:
            return self.layer(batch).sum() / num_items

        def count_items(self, group: Sequence[Any]) -> int:
            return sum(len(batch) for batch in group)

    task = Counted()
    share = first_step(task, torch.ones(4, 2), torch.tensor(8))
    assert share.item() == pytest.approx(task.layer(torch.ones(4, 2)).sum().item() / 8)


def test_a_count_that_no_step_takes_is_an_error() -> None:
    class Unused(Line):
        def count_items(self, group: Sequence[Any]) -> int:
            return 1

    task = Unused()
    with pytest.raises(TaskError, match="training_step has no parameter num_items"):
        task.bind(engine_for(task), training=True)


def test_an_own_backward_ends_with_the_weighted_loss() -> None:
    class Own(Line):
        def forward_backward(self, batch: Any, num_items: Tensor | None) -> Tensor:
            return self.backward(self.layer(batch).mean() * 3)

    task = Own()
    share = first_step(task, torch.ones(1, 2))
    assert share.item() == pytest.approx(3 * task.layer(torch.ones(1, 2)).item(), rel=1e-6)


@pytest.mark.parametrize("method", ["training_step", "eval_step"])
def test_a_missing_step_names_itself(method: str) -> None:
    with pytest.raises(TaskError, match=f"defines no {method}"):
        getattr(TaskModule(), method)(None)


def test_predict_step_defaults_to_the_predictions_of_eval_step() -> None:
    class Evaluated(Line):
        def eval_step(self, batch: Any) -> dict[str, Any]:
            return {"preds": batch + 1}

    assert Evaluated().predict_step(torch.zeros(1)).item() == 1


def test_the_device_of_a_task_without_tensors_is_the_cpu() -> None:
    assert TaskModule().device == torch.device("cpu")
