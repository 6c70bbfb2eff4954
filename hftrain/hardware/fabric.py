"""The one place where `lightning_fabric` is imported, when a run starts and not before."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from hftrain.errors import HardwareError

_lock = threading.Lock()


def load_fabric() -> ModuleType:
    """Import `lightning_fabric` with torchmetrics out of sight: 0.05 s at the start of a run instead of 1.2 s.

    Its ``utilities/imports.py`` imports torchmetrics only to compare a version, and that imports transformers where
    it is installed. The flag which that comparison sets is put right afterwards, so Lightning's other parts, imported
    later by somebody else, read the truth. torchmetrics itself imports normally before and after.

    Raises:
        HardwareError: it is not installed.
    """
    with _lock:
        loaded = sys.modules.get("lightning_fabric")
        if loaded is not None:
            return loaded
        hides_torchmetrics = "torchmetrics" not in sys.modules
        if hides_torchmetrics:
            sys.modules["torchmetrics"] = None  # type: ignore[assignment]  # Python's own mark for "not importable"
        try:
            fabric = _imported_in_a_thread("lightning_fabric")
        except ModuleNotFoundError as error:
            if error.name != "lightning_fabric":
                raise
            raise HardwareError('lightning_fabric is not installed. Run: pip install "lightning>=2.6,<2.7"') from error
        finally:
            if hides_torchmetrics:
                del sys.modules["torchmetrics"]
        if hides_torchmetrics:
            flags = importlib.import_module("lightning_fabric.utilities.imports")
            flags._TORCHMETRICS_GREATER_EQUAL_1_0_0 = _has_torchmetrics_1()  # type: ignore[attr-defined]
        return fabric


def _imported_in_a_thread(name: str) -> ModuleType:
    """Import a module from a stack of its own.

    Fabric's import runs `torch.fx.wrap`, which leaves a cycle through the calling frames; in the caller's thread that
    would keep the run, and with it the model, alive until the garbage collector comes.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(importlib.import_module, name).result()


def _has_torchmetrics_1() -> bool:
    try:
        return int(importlib.metadata.version("torchmetrics").split(".")[0]) >= 1
    except importlib.metadata.PackageNotFoundError:
        return False
