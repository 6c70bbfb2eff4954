"""Arguments that act through a vendor's package, in runs with packages as small as what is called of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hftrain import Trainer
from hftrain.errors import TaskError
from hftrain.hardware.vendors import PACKAGES, load
from tests.hardware.fake_vendors import install
from tests.trainer.tasks import Fit, Model, Points, arguments, trainer, weights

Installer = Callable[[str], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    before = set(sys.modules)
    yield lambda name: install(tmp_path, monkeypatch, name)
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {package.module.split(".")[0] for package in PACKAGES.values()}:
            del sys.modules[name]


def trained(folder: Path, **changes: Any) -> Tensor:
    torch.manual_seed(0)
    ours = Trainer(Model(), arguments(folder, **changes), train_dataset=Points(16))
    ours.train()
    return weights(ours.model)


def test_apex_scales_the_loss_at_the_level_that_is_asked_for(tmp_path: Path, installed: Installer) -> None:
    plain = trained(tmp_path)
    installed("apex")
    half = {"half_precision_backend": "apex", "fp16": True, "fp16_opt_level": "O2", "use_cpu": False}
    assert torch.allclose(trained(tmp_path, **half).cpu(), plain)  # scaled and unscaled again
    assert load("apex").calls == [("initialize", "O2"), *["unscaled"] * 4]


def test_intels_extension_optimizes_model_and_optimizer_before_training(tmp_path: Path, installed: Installer) -> None:
    plain = trained(tmp_path)
    installed("intel_extension_for_pytorch")
    with pytest.warns(FutureWarning, match="use_ipex"):
        assert torch.equal(trained(tmp_path, use_ipex=True), plain)
    assert load("ipex").calls == [("Model", torch.float32, "AdamW", True, True)]


def test_a_run_on_a_tpu_uses_its_core_and_runs_what_was_recorded_at_each_step(
    tmp_path: Path, installed: Installer
) -> None:
    installed("torch_xla")
    trained(tmp_path, use_cpu=False, tpu_num_cores=1)
    assert load("xla").calls.count("sync") == 4
    assert "device" in load("xla").calls


def test_metrics_of_a_tpu_are_printed_after_each_epoch(
    tmp_path: Path, installed: Installer, capsys: pytest.CaptureFixture[str]
) -> None:
    installed("torch_xla")
    trained(tmp_path, debug="tpu_metrics_debug")
    assert capsys.readouterr().out.count("Metric: CompileTime") == 2
    with pytest.warns(FutureWarning, match="tpu_metrics_debug"):
        trained(tmp_path, tpu_metrics_debug=True)
    assert capsys.readouterr().out.count("Metric: CompileTime") == 2


class Overflowing(Model):
    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return super().forward(x * float("inf"), y)


@pytest.mark.parametrize("task", [False, True])
def test_a_run_stops_at_the_module_that_overflowed(tmp_path: Path, task: bool) -> None:
    data = Points()
    data.x *= float("inf")
    ours = (
        trainer(tmp_path, Fit(), debug="underflow_overflow")
        if task
        else Trainer(Overflowing(), arguments(tmp_path, debug="underflow_overflow"), train_dataset=data)
    )
    if task:
        nn.init.constant_(ours.model.net[0].weight, float("inf"))  # type: ignore[index,union-attr]
    with pytest.raises(TaskError, match=r"found inf or nan in \S+ of net\S* \(Linear\)"):
        ours.train()
    assert not any(part._forward_hooks for part in ours.model.modules())


def test_an_overflow_goes_on_unseen_without_the_monitor(tmp_path: Path) -> None:
    assert Trainer(Overflowing(), arguments(tmp_path), train_dataset=Points()).train().global_step == 16
