from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hftrain

NEW_MODULES = """
import json, sys
before = set(sys.modules)
import {module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_loaded_by(module: str) -> list[str]:
    """The modules that a fresh interpreter loads for ``import module``."""
    code = NEW_MODULES.format(module=module)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded: list[str] = json.loads(out)
    return loaded


def static_twin() -> dict[str, str]:
    tree = ast.parse(Path(hftrain.__file__).read_text())
    guarded = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = [n for n in guarded.body if isinstance(n, ast.ImportFrom)]
    return {alias.asname or alias.name: str(n.module) for n in imports for alias in n.names}


def light_modules() -> list[str]:
    root = Path(hftrain.__file__).parent
    files = [
        root / "errors.py",
        *(f for layer in ("types", "args", "plugin_api") for f in (root / layer).rglob("*.py")),
    ]
    dotted = [".".join(f.relative_to(root.parent).with_suffix("").parts) for f in sorted(files)]
    return [name.removesuffix(".__init__") for name in dotted]


def test_the_lazy_names_and_the_static_twin_agree() -> None:
    assert static_twin() == hftrain._HOME


def test_every_public_name_is_found_where_the_table_says() -> None:
    for name, module in hftrain._HOME.items():
        assert getattr(hftrain, name) is getattr(import_module(module), name)


def test_a_star_import_brings_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from hftrain import *", names)
    assert names.keys() - {"__builtins__"} == hftrain._HOME.keys()


def test_the_public_names_are_listed_for_completion() -> None:
    assert set(hftrain._HOME) <= set(dir(hftrain))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainr'"):
        _ = hftrain.Trainr  # type: ignore[attr-defined]


def test_importing_a_name_of_transformers_says_where_it_is() -> None:
    with pytest.raises(ImportError, match="no attribute 'AutoModel'; .* from transformers import AutoModel$"):
        from hftrain import AutoModel  # type: ignore[attr-defined] # noqa: F401


def test_asking_for_a_name_of_transformers_is_an_attribute_error_with_the_same_text() -> None:
    assert not hasattr(hftrain, "AutoModel")
    assert getattr(hftrain, "AutoModel", None) is None
    with pytest.raises(AttributeError, match="from transformers.trainer_utils import has_length$"):
        _ = hftrain.has_length  # type: ignore[attr-defined]


def test_a_name_that_nobody_has_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="Trainr"):
        from hftrain import Trainr  # type: ignore[attr-defined] # noqa: F401


def test_folders_can_be_imported_from_the_front_door() -> None:
    code = "from hftrain import args, callbacks, checkpoint, core, data, hardware, optim, trainer, types"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_import_hftrain_loads_itself_and_a_handful_of_the_standard_library() -> None:
    loaded = modules_loaded_by("hftrain")
    ours = [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names]
    assert ours == ["hftrain", "hftrain._version"]
    assert len(loaded) < 30  # under 100 ms: a module of the standard library takes about 1 ms, torch alone 1,000


@pytest.mark.parametrize("module", light_modules())
def test_the_lower_layers_load_neither_torch_nor_numpy(module: str) -> None:
    heavy = {"torch", "numpy", "lightning", "lightning_fabric", "torchmetrics", "transformers"}
    loaded = modules_loaded_by(module)
    assert heavy.isdisjoint(loaded)
    # Of hardware only what reads torchrun's variables and what knows of installed packages: devices are asked for by
    # `device` and its like.
    hardware = {name for name in loaded if name.startswith("hftrain.hardware.")}
    assert hardware <= {"hftrain.hardware.world", "hftrain.hardware.vendors"}
