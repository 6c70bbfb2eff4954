from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hftrain.types.callback import TrainerCallback

SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("surface_v4.53.1.json").read_text())
METHODS = {name: text for name, text in SURFACE["TrainerCallback_methods"].items() if name != "__init__"}


@pytest.mark.parametrize("name", METHODS)
def test_the_signature_is_the_documented_one(name: str) -> None:
    signature = inspect.signature(getattr(TrainerCallback, name))
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == METHODS[name]


@pytest.mark.parametrize("name", METHODS)
def test_every_event_says_when_it_happens(name: str) -> None:
    assert inspect.getdoc(getattr(TrainerCallback, name))


def test_the_vocabulary_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from hftrain.types import callback, choices, control, outputs, state; from hftrain import errors;"
        "sys.exit(bool({'torch', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
