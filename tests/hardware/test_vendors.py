from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from hftrain.errors import HardwareError
from hftrain.hardware.engine import create_engine
from hftrain.hardware.process_group import _load_backend
from hftrain.hardware.settings import EngineSettings
from hftrain.hardware.vendors import PACKAGES, is_importable, load
from hftrain.hardware.xla import metrics_report
from tests.hardware.fake_vendors import install


@pytest.fixture(autouse=True)
def forgets_fakes() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {package.module.split(".")[0] for package in PACKAGES.values()}:
            del sys.modules[name]


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_not_installed_says_how_to_get_it(name: str) -> None:
    assert not is_importable(name)
    with pytest.raises(HardwareError, match=rf"{PACKAGES[name].module} cannot be imported .*\. (Install|Run) "):
        load(name)


def test_a_folder_that_only_has_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_xla").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_importable("xla")


def test_a_package_is_imported_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "torch_xla")
    assert is_importable("xla")
    assert metrics_report() == "Metric: CompileTime"


def test_a_vendors_backend_is_imported_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HardwareError, match="oneccl_bindings_for_pytorch cannot be imported"):
        _load_backend("cpu:ccl,cuda:nccl")
    install(tmp_path, monkeypatch, "oneccl_bindings_for_pytorch")
    _load_backend("cpu:ccl,cuda:nccl")
    assert "oneccl_bindings_for_pytorch" in sys.modules


def test_apex_says_whether_a_step_was_skipped_and_keeps_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "apex")
    engine = create_engine(EngineSettings(accelerator="cpu", vendor="apex"))
    model = nn.Linear(1, 1)
    with pytest.raises(HardwareError, match="make_optimizer before wrap"):
        engine.wrap(model)
    optimizer = engine.make_optimizer(lambda: torch.optim.SGD(model.parameters()))
    engine.wrap(model)
    engine.backward(model(torch.ones(1, 1)).sum())
    assert engine.clip(1.0) == pytest.approx(2**0.5)
    assert engine.optimizer_step(optimizer)
    optimizer._amp_stash.already_patched = True  # type: ignore[attr-defined]
    assert not engine.optimizer_step(optimizer)
    assert engine.step_was_skipped
    engine.load_scaler_state(engine.scaler_state() or {})
    assert load("apex").calls[-1] == ("load", engine.scaler_state())


def test_an_extension_that_copies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "intel_extension_for_pytorch")
    engine = create_engine(EngineSettings(accelerator="cpu", vendor="ipex"))
    monkeypatch.setattr(load("ipex"), "optimize", lambda model, **_: nn.Linear(1, 1))
    with pytest.raises(HardwareError, match="another model or optimizer .* Set use_ipex=False"):
        engine.wrap(nn.Linear(1, 1))
