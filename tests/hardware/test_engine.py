from __future__ import annotations

import copy
import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hftrain.errors import HardwareError
from hftrain.hardware.engine import Engine, create_engine
from hftrain.hardware.settings import EngineSettings


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 2)

    def training_step(self, x: Tensor) -> Tensor:
        return self.net(x).float().square().mean()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


X = torch.arange(12.0).reshape(4, 3)


def engine_of(**settings: Any) -> Engine:
    return create_engine(EngineSettings(accelerator="cpu", **settings))


def train(engine: Engine, task: Task, steps: int = 3) -> torch.optim.Optimizer:
    engine.wrap(task, steps=["training_step"])
    optimizer = engine.make_optimizer(lambda: torch.optim.AdamW(task.parameters(), lr=0.1))
    step = engine.step("training_step")
    for _ in range(steps):
        engine.set_sync(True)
        engine.backward(step(engine.to_device(X)))
        engine.clip(0.5)
        assert engine.optimizer_step(optimizer)
        engine.zero_grad(optimizer)
    return optimizer


def test_training_is_bit_equal_to_the_raw_loop() -> None:
    task, twin = Task(), Task()
    train(engine_of(), task)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.1)
    for _ in range(3):
        twin.training_step(X).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), twin.parameters(), strict=True))


def test_fp32_on_one_device_adds_nothing_around_module_and_step() -> None:
    engine, task = engine_of(), Task()
    assert engine.wrap(task, steps=["training_step"]) is task
    assert engine.step("training_step") == task.training_step
    assert engine.unwrapped_step("forward") is task
    assert engine.autocast() is engine.autocast()
    assert engine.to_device(X) is X


class HostReads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_reads_nothing_from_the_device(precision: str) -> None:
    engine, task = engine_of(precision=precision), Task()
    engine.wrap(task, steps=["training_step"])
    optimizer = engine.make_optimizer(lambda: torch.optim.SGD(task.parameters(), lr=0.1))
    step = engine.step("training_step")
    with HostReads() as reads:
        engine.backward(step(engine.to_device(X)))
        engine.clip(0.5)
        engine.optimizer_step(optimizer)
        engine.zero_grad(optimizer)
    assert reads.count == 0


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An fp16 engine on CPU: what is refused to users computes the same as on a GPU."""
    monkeypatch.setattr("hftrain.hardware.engine.check_half_precision", lambda name, device: None)
    return engine_of(precision="fp16")


def fp16_step(engine: Engine, task: Task, factor: float = 1.0) -> tuple[Tensor | None, bool]:
    engine.wrap(task, steps=["training_step"])
    optimizer = engine.make_optimizer(lambda: torch.optim.SGD(task.parameters(), lr=0.1))
    engine.backward(engine.step("training_step")(X / 10) * factor)
    norm = engine.clip(1e6)
    stepped = engine.optimizer_step(optimizer)
    engine.zero_grad(optimizer)
    return norm, stepped


def test_fp16_clips_unscaled_gradients_and_follows_fp32(fp16: Engine) -> None:
    task, twin = Task(), Task()
    norm, stepped = fp16_step(fp16, task)
    exact, _ = fp16_step(engine_of(), twin)
    assert stepped
    assert torch.allclose(norm, exact, rtol=1e-2)
    assert torch.allclose(task.net.weight, twin.net.weight, rtol=1e-2)


def test_an_fp16_overflow_skips_the_step_and_the_next_one_is_free_of_it(fp16: Engine) -> None:
    task = Task()
    norm, stepped = fp16_step(fp16, task, factor=float("inf"))
    assert not stepped
    assert fp16.step_was_skipped
    assert not norm.isfinite()
    assert torch.equal(task.net.weight, Task().net.weight)
    assert fp16_step(fp16, task)[1]
    assert not fp16.step_was_skipped
    assert task.net.weight.isfinite().all()


def test_an_fp16_step_reads_the_overflow_flag_and_nothing_else(fp16: Engine) -> None:
    with HostReads() as reads:
        fp16_step(fp16, Task())
    assert reads.count == 1


def test_the_scale_survives_json(fp16: Engine) -> None:
    task = Task()
    fp16_step(fp16, task, factor=float("inf"))
    state = json.loads(json.dumps(fp16.scaler_state()))
    assert state["scale"] == 2.0**15
    fresh = engine_of(precision="fp16")
    fresh.load_scaler_state(state)
    assert fresh.scaler_state() == state


def test_a_step_that_was_not_wrapped_is_refused_by_name() -> None:
    engine = engine_of()
    with pytest.raises(HardwareError, match=r"step\('training_step'\) was not among .* \(none\)"):
        engine.step("training_step")
    engine.wrap(Task())
    with pytest.raises(HardwareError, match=r"\(forward\).*steps=\['training_step'\]"):
        engine.step("training_step")


def test_placing_is_enough_for_evaluation_and_nothing_is_not() -> None:
    engine, task = engine_of(), Task()
    with pytest.raises(HardwareError, match="before engine.place or engine.wrap"):
        engine.unwrapped_step("training_step")
    engine.place(task)
    assert engine.unwrapped_step("training_step") == task.training_step


def test_clip_looks_at_what_was_trainable_when_wrapped_and_at_the_optimizers() -> None:
    engine, task, extra = engine_of(), Task(), nn.Parameter(torch.ones(1))
    task.net.bias.requires_grad_(False)
    engine.wrap(task)
    optimizer = engine.make_optimizer(lambda: torch.optim.SGD([task.net.weight], lr=1.0))
    for parameter in (task.net.weight, task.net.bias, extra):
        parameter.grad = torch.full_like(parameter, 3.0)
    task.net.weight.grad.zero_()
    assert engine.clip(1.0) == 0
    optimizer.add_param_group({"params": [extra]})
    assert engine.clip(1.0) == 3
    engine.zero_grad(optimizer)
    assert extra.grad is None
    assert task.net.bias.grad is not None


def test_zero_grad_follows_an_optimizer_the_engine_did_not_make() -> None:
    engine, task = engine_of(), Task()
    engine.wrap(task)
    foreign = nn.Parameter(torch.ones(1))
    foreign.grad = torch.ones(1)
    engine.zero_grad(torch.optim.SGD([foreign], lr=1.0))
    assert foreign.grad is None


def test_an_optimizer_with_a_zero_grad_of_its_own_is_asked() -> None:
    calls = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            calls.append(set_to_none)

    engine, task = engine_of(), Task()
    engine.wrap(task)
    engine.zero_grad(engine.make_optimizer(lambda: Own(task.parameters(), lr=1.0)))
    assert calls == [True]


def test_without_fp16_there_is_no_scaler_state_and_a_saved_one_is_named(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(precision="bf16")
    assert engine.scaler_state() is None
    with caplog.at_level("INFO"):
        engine.load_scaler_state({"scale": 1.0})
    assert "this run (bf16) has none" in caplog.text


def test_collectives_of_one_process_are_the_identity() -> None:
    engine, tree = engine_of(), {"a": X, "b": [None]}
    assert engine.gather(tree) is tree
    assert engine.gather(torch.tensor(2.0)).shape == (1,)
    assert engine.reduce_sum(X) is X
    assert engine.gather_object("x") == ["x"]
    assert engine.broadcast_object(tree) is tree
    engine.barrier()
    engine.synchronize()
    engine.empty_cache()


def test_closing_frees_the_module_without_the_garbage_collector() -> None:
    engine, task = engine_of(precision="bf16"), Task()
    optimizer = train(engine, task)
    gone = weakref.ref(task)
    gc.disable()
    try:
        engine.close()
        engine.close()
        del task, optimizer
        assert gone() is None
    finally:
        gc.enable()


class Counting:
    """A compiler that counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(("steps", "name"), [(["training_step"], "training_step"), ([], "forward")])
def test_what_step_calls_is_compiled_once_and_the_names_stay(steps: list[str], name: str) -> None:
    torch._dynamo.reset()
    backend, task = Counting(), Task()
    engine = engine_of(compile=True, compile_backend=backend)
    wrapped = engine.wrap(task, steps=steps)
    compiled, plain = engine.step(name)(X), getattr(Task(), name)(X)
    engine.step(name)(X)
    assert backend.graphs == 1
    assert torch.equal(compiled, plain)
    assert wrapped is task
    assert list(wrapped.state_dict()) == ["net.weight", "net.bias"]


def test_a_compiled_module_is_freed_without_the_garbage_collector() -> None:
    torch._dynamo.reset()
    task, backend = Task(), Counting()
    engine = engine_of(compile=True, compile_backend=backend)
    engine.wrap(task)
    engine.step("forward")(X)
    assert backend.graphs == 1
    gone = weakref.ref(task)
    gc.disable()
    try:
        engine.close()
        del task
        assert gone() is None
    finally:
        gc.enable()


def test_a_copy_of_a_compiled_module_computes_with_its_own_weights() -> None:
    task = Task()
    engine = engine_of(compile=True, compile_backend="eager")
    engine.wrap(task)
    before = engine.step("forward")(X)
    twin = copy.deepcopy(task)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert torch.equal(task(X), before)
    assert not torch.equal(twin(X), before)


def test_nothing_is_compiled_unless_asked() -> None:
    code = """import sys, torch
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings
engine = create_engine(EngineSettings(accelerator="cpu", compile_backend="eager"))
layer = torch.nn.Linear(1, 1)
engine.wrap(layer)
print(engine.step("forward") is layer, layer._compiled_call_impl)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "None"]
