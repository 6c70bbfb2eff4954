"""Packages of vendors that no test machine has, as small as what is called of them; each notes its calls."""

from __future__ import annotations

from pathlib import Path

import pytest

SOURCES = {
    "apex/__init__.py": "",
    "apex/amp.py": """
from contextlib import contextmanager
from types import SimpleNamespace
calls = []
SCALE = 8.0
def initialize(model, optimizer, opt_level="O1"):
    calls.append(("initialize", opt_level))
    optimizer._amp_stash = SimpleNamespace(already_patched=False)
    return model, optimizer
@contextmanager
def scale_loss(loss, optimizer):
    yield loss * SCALE
    for weight in master_params(optimizer):
        weight.grad /= SCALE
    calls.append("unscaled")
def master_params(optimizer):
    return [weight for group in optimizer.param_groups for weight in group["params"]]
def state_dict():
    return {"loss_scaler0": {"loss_scale": SCALE, "unskipped": 3}}
def load_state_dict(state):
    calls.append(("load", state))
""",
    "intel_extension_for_pytorch/__init__.py": """
calls = []
def optimize(model, dtype=None, optimizer=None, level="O1", inplace=False):
    calls.append((type(model).__name__, dtype, type(optimizer).__name__, inplace, model.training))
    return (model, optimizer) if optimizer is not None else model
""",
    "torch_xla/__init__.py": """
calls = []
def device():
    calls.append("device")
    return "cpu"
def sync():
    calls.append("sync")
""",
    "torch_xla/debug/__init__.py": "",
    "torch_xla/debug/metrics.py": "def metrics_report():\n    return 'Metric: CompileTime'\n",
    "oneccl_bindings_for_pytorch/__init__.py": "calls = ['imported']\n",
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Put the named packages where they can be imported, for the test."""
    for name, source in SOURCES.items():
        if name.split("/")[0] in names:
            file = folder / "packages" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
            monkeypatch.delitem(__import__("sys").modules, name.removesuffix(".py").replace("/", "."), raising=False)
    monkeypatch.syspath_prepend(folder / "packages")
