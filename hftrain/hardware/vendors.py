"""Backends that come with a package of their vendor, used where it can be imported. Imports no torch itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hftrain.errors import HardwareError


@dataclass(frozen=True)
class Package:
    """What to import for a backend, and how to get it."""

    module: str
    install: str


PACKAGES: Mapping[str, Package] = {
    "apex": Package("apex.amp", "Install NVIDIA's apex from its source (the apex on PyPI is another package)"),
    "ipex": Package("intel_extension_for_pytorch", "Run pip install intel-extension-for-pytorch"),
    "xla": Package("torch_xla", "Run pip install torch_xla"),
    "ccl": Package("oneccl_bindings_for_pytorch", "Install Intel's oneccl_bind_pt"),
    "hccl": Package("habana_frameworks", "Install Habana's habana-torch-plugin"),
}


def is_importable(backend: str) -> bool:
    """Whether the backend's package is installed; a folder that only has its name does not count."""
    top = PACKAGES[backend].module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    return spec is not None and spec.origin is not None


def load(backend: str) -> Any:
    """Import what the backend needs and return it.

    Raises:
        HardwareError: it cannot be imported; the message says how to get it.
    """
    package = PACKAGES[backend]
    try:
        return importlib.import_module(package.module)
    except ImportError as error:
        raise HardwareError(f"{package.module} cannot be imported ({error}). {package.install}.") from error
