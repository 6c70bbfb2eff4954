from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from hftrain.errors import HardwareError
from hftrain.hardware import precision
from hftrain.hardware.engine import Engine, create_engine
from hftrain.hardware.precision import LossScaler, check_half_precision, check_trainable_in_fp16, set_tf32
from hftrain.hardware.settings import EngineSettings

CPU = torch.device("cpu")


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
        self.seen: Tensor | None = None

    def training_step(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        self.seen = batch["year"]
        output = self.net(batch["x"])
        return {"loss": mse_loss(output.float(), batch["year"]), "output": output}


BATCH = {"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), "year": torch.full((5, 1), 2023.4)}


def engine_of(**settings: Any) -> Engine:
    return create_engine(EngineSettings(accelerator="cpu", **settings))


def test_bf16_is_exactly_torch_autocast() -> None:
    task, twin, engine = Task(), Task(), engine_of(precision="bf16")
    engine.wrap(task, steps=["training_step"])
    ours = engine.step("training_step")(BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = twin.training_step(BATCH)
    engine.backward(ours["loss"])
    theirs["loss"].backward()
    assert torch.equal(ours["loss"], theirs["loss"])
    assert ours["output"].dtype == torch.bfloat16
    for a, b in zip(task.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_bf16_leaves_inputs_and_labels_as_they_are() -> None:
    task, engine = Task(), engine_of(precision="bf16")
    engine.wrap(task, steps=["training_step"])
    engine.step("training_step")(BATCH)
    assert task.seen is BATCH["year"]


def test_outputs_can_be_turned_to_fp32_wherever_they_are_nested() -> None:
    outputs = {"a": torch.ones(1, dtype=torch.bfloat16), "b": [torch.ones(1, dtype=torch.int64), "text"]}
    turned = engine_of(precision="bf16").float_outputs(outputs)
    assert turned["a"].dtype == torch.float32
    assert turned["b"] is outputs["b"]
    assert engine_of().float_outputs(outputs) is outputs


def test_autocast_contexts_nest_and_can_be_used_again() -> None:
    engine = engine_of(precision="bf16")
    with engine.autocast():
        with engine.autocast():
            assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    with engine_of().autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_fp16_on_cpu_is_refused_with_what_to_set() -> None:
    with pytest.raises(HardwareError, match="fp16=True was asked for, but training runs on CPU.*bf16=True"):
        engine_of(precision="fp16")


@pytest.mark.parametrize("how", ["precision", "full_eval"])
def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(HardwareError, match="bf16 was asked for, but Old GPU does not support it.*fp16=True"):
        check_half_precision("bf16", torch.device("cuda", 0))


def test_trainable_fp16_weights_are_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    with pytest.raises(HardwareError, match="'1.weight' is fp16"):
        check_trainable_in_fp16(module)
    check_trainable_in_fp16(module.requires_grad_(False))


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_full_eval_casts_and_gives_back_the_very_same_weights(name: Any) -> None:
    task, engine = Task().eval(), engine_of(full_eval=name)
    before = {key: (value, value.clone()) for key, value in [*task.named_parameters(), *task.named_buffers()]}
    names = list(task.state_dict())
    with engine.full_eval(task), torch.no_grad():
        weights = {parameter.dtype for parameter in task.parameters()}
        output = task.training_step(BATCH)["output"]
        assert list(task.state_dict()) == names
    assert weights == {output.dtype} == {precision._DTYPES[name]}
    for key, value in [*task.named_parameters(), *task.named_buffers()]:
        assert value is before[key][0]
        assert torch.equal(value, before[key][1])


def test_full_eval_restores_after_an_error_and_keeps_tied_weights_tied() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.LSTM(3, 3))
    module[1].weight = module[0].weight
    weight = module[0].weight

    def evaluate() -> None:
        with engine_of(full_eval="bf16").full_eval(module):
            assert module[0].weight is module[1].weight is not weight
            assert module[2](module[0](torch.ones(1, 3)))[0].dtype == torch.bfloat16
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    assert module[0].weight is module[1].weight is weight
    assert module[2](torch.ones(1, 3))[0].dtype == torch.float32


def test_full_eval_does_nothing_unless_asked() -> None:
    task = Task()
    with engine_of().full_eval(task):
        assert task.net[0].weight.dtype == torch.float32


@pytest.fixture
def switches() -> Iterator[list[tuple[Any, str]]]:
    found = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
    before = [getattr(owner, name) for owner, name in found]
    yield found
    for (owner, name), value in zip(found, before, strict=True):
        setattr(owner, name, value)


@pytest.mark.parametrize("enabled", [True, False])
def test_tf32_is_set_and_restored_when_the_engine_closes(
    monkeypatch: pytest.MonkeyPatch, switches: list[tuple[Any, str]], enabled: bool
) -> None:
    monkeypatch.setattr(precision, "tf32_is_available", lambda: True)
    before = [getattr(owner, name) for owner, name in switches]
    engine = engine_of(tf32=enabled)
    assert [getattr(owner, name) for owner, name in switches] == [enabled, enabled]
    engine.close()
    engine.close()
    assert [getattr(owner, name) for owner, name in switches] == before


def test_tf32_without_the_hardware_is_refused_and_off_is_fine(switches: list[tuple[Any, str]]) -> None:
    before = [getattr(owner, name) for owner, name in switches]
    with pytest.raises(HardwareError, match="tf32=True needs an NVIDIA GPU"):
        engine_of(tf32=True)
    engine_of(tf32=False).close()
    assert [getattr(owner, name) for owner, name in switches] == before


def test_tf32_follows_a_process_that_uses_torchs_newer_switches() -> None:
    # In a process of its own: torch has no way back to the older switches.
    import subprocess
    import sys

    code = """import torch
from hftrain.hardware.precision import set_tf32
matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
matmul.fp32_precision = "ieee"
restore = set_tf32(True)
during = matmul.fp32_precision, conv.fp32_precision
restore()
print(*during, matmul.fp32_precision)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tf32", "tf32", "ieee"]


# The loss scaler's arithmetic is the same on CPU; only training on CPU is refused.


def scaled_step(loss_factor: float, *, fused: bool = False, clip: bool = False) -> tuple[bool, float, Tensor, Tensor]:
    layer, scaler = nn.Linear(2, 1, bias=False), LossScaler("cpu", init_scale=8.0)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    scaler.scale(layer(torch.ones(1, 2)).sum() * loss_factor).backward()
    if clip:
        scaler.unscale_once(optimizer)
    stepped = scaler.step_if_finite(optimizer)
    scaler.unscale_once(optimizer)  # the next step may unscale again
    return stepped, scaler.get_scale(), before, layer.weight.detach()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_an_overflow_skips_the_step_says_so_and_lowers_the_scale(fused: bool, clip: bool) -> None:
    stepped, scale, before, after = scaled_step(float("inf"), fused=fused, clip=clip)
    assert not stepped
    assert scale == 4.0
    assert torch.equal(before, after)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_a_finite_step_moves_the_weights(fused: bool, clip: bool) -> None:
    stepped, scale, before, after = scaled_step(1.0, fused=fused, clip=clip)
    assert stepped
    assert scale == 8.0
    assert not torch.equal(before, after)


def test_a_step_without_gradients_leaves_the_scale_alone() -> None:
    layer, scaler = nn.Linear(2, 1), LossScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(1))
    assert scaler.step_if_finite(torch.optim.SGD(layer.parameters()))
    assert scaler.get_scale() == 8.0


def test_set_tf32_returns_its_own_undo(switches: list[tuple[Any, str]]) -> None:
    outer = set_tf32(True)
    inner = set_tf32(False)
    inner()
    assert all(getattr(owner, name) for owner, name in switches)
    outer()
