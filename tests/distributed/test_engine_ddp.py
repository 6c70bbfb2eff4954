"""Training through the engine in two gloo processes equals one process with the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from hftrain.hardware.engine import Engine, create_engine
from hftrain.hardware.settings import EngineSettings
from tests.distributed.launch import launch

pytestmark = pytest.mark.slow

STEPS, ACCUMULATE, BATCH = 4, 3, 8
Batch = tuple[Tensor, Tensor]


class Task(nn.Module):
    def __init__(self, *, with_unused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
        self.unused = nn.Linear(2, 2) if with_unused else None

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": mse_loss(self.net(batch[0]), batch[1])}


def batches(engine: Engine) -> Iterator[Batch]:
    """Each process takes its share of the same whole batches."""
    generator = torch.Generator().manual_seed(1)
    while True:
        whole = torch.randn(BATCH, 6, generator=generator), torch.randn(BATCH, 2, generator=generator)
        yield tuple(part.chunk(engine.world_size)[engine.process_index] for part in whole)


def weights(module: nn.Module) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).double().tolist()


def train(
    engine: Engine, task: Task, *, accumulate: int = 1, between: Callable[[], None] | None = None
) -> tuple[list[float], list[list[float]]]:
    """Train and return the weights and the gradient of the last unsynchronised micro-batch."""
    engine.wrap(task, steps=["training_step"])
    optimizer = engine.make_optimizer(lambda: torch.optim.AdamW(task.parameters(), lr=0.05))
    step, data, local = engine.step("training_step"), batches(engine), []
    for _ in range(STEPS):
        for index in range(accumulate):
            is_last = index == accumulate - 1
            engine.set_sync(is_last)
            engine.backward(step(engine.to_device(next(data)))["loss"] / accumulate)
            if not is_last:
                local.append(task.net[0].bias.grad.tolist())
        engine.clip(0.5)
        assert engine.optimizer_step(optimizer)
        engine.zero_grad(optimizer)
        if between is not None:
            between()
    engine.close()
    return weights(task), local


def fresh(**settings: Any) -> Engine:
    return create_engine(EngineSettings(accelerator="cpu", ddp_timeout_s=60, **settings))


def train_all_ways() -> dict[str, Any]:
    plain, _ = train(fresh(), Task())
    accumulated, local = train(fresh(), Task(), accumulate=ACCUMULATE)
    unused, _ = train(fresh(ddp_find_unused_parameters=True, ddp_broadcast_buffers=False), Task(with_unused=True))
    engine, task = fresh(full_eval="bf16"), Task()

    def evaluate() -> None:
        with engine.full_eval(task), torch.no_grad():
            task.net(torch.zeros(1, 6))

    evaluated, _ = train(engine, task, between=evaluate)
    bf16, _ = train(fresh(precision="bf16"), Task())
    return {
        "plain": plain,
        "accumulated": accumulated,
        "local_gradients": local,
        "unused": unused,
        "evaluated": evaluated,
        "bf16": bf16,
        "wrappers": wrappers(),
        "graphs": compiled_graphs(),
    }


def wrappers() -> dict[str, Any]:
    engine, frozen, model = fresh(), Task().requires_grad_(False), Task().net
    kept = engine.wrap(frozen, steps=["training_step"]) is frozen
    loss = float(engine.step("training_step")(next(batches(engine)))["loss"])
    wrapped = engine.wrap(model)
    return {
        "frozen_is_not_wrapped": kept and loss > 0,
        "model_is_wrapped": isinstance(wrapped, DistributedDataParallel) and wrapped.module is model,
        "forward_is_the_wrapper": engine.step("forward") is wrapped,
        "unwrapped_is_the_module": engine.unwrapped_step("forward") is model,
    }


def compiled_graphs() -> int:
    graphs = 0

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    engine, task = fresh(compile=True, compile_backend=counting), Task()
    engine.wrap(task, steps=["training_step"])
    for _ in range(2):
        engine.step("training_step")(next(batches(engine)))["loss"].backward()
    return graphs if list(task.state_dict()) == list(Task().state_dict()) else -1


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return launch(train_all_ways)


@pytest.mark.parametrize("way", ["plain", "unused", "evaluated"])
def test_training_equals_one_process_with_the_whole_batch(ranks: list[dict[str, Any]], way: str) -> None:
    alone, _ = train(fresh(), Task(with_unused=way == "unused"))
    assert ranks[0][way] == ranks[1][way]
    assert ranks[0][way] == pytest.approx(alone, abs=1e-6)


def test_accumulation_equals_one_process_and_synchronises_only_at_the_end(ranks: list[dict[str, Any]]) -> None:
    alone, _ = train(fresh(), Task(), accumulate=ACCUMULATE)
    assert ranks[0]["accumulated"] == ranks[1]["accumulated"]
    assert ranks[0]["accumulated"] == pytest.approx(alone, abs=1e-6)
    for one, other in zip(ranks[0]["local_gradients"], ranks[1]["local_gradients"], strict=True):
        assert one != other


def test_bf16_keeps_the_processes_equal_and_near_fp32(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["bf16"] == ranks[1]["bf16"]
    assert ranks[0]["bf16"] == pytest.approx(ranks[0]["plain"], abs=0.05)
    assert ranks[0]["bf16"] != ranks[0]["plain"]


def test_ddp_wraps_what_can_be_trained_and_nothing_else(ranks: list[dict[str, Any]]) -> None:
    assert all(all(rank["wrappers"].values()) for rank in ranks), ranks[0]["wrappers"]


def test_the_step_inside_ddp_is_compiled_once_and_in_place(ranks: list[dict[str, Any]]) -> None:
    assert [rank["graphs"] for rank in ranks] == [1, 1]
