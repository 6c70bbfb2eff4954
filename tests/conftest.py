"""What holds for every test: no network, one thread, offline hub."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

# Set before anything imports torch or huggingface_hub; the processes that tests start inherit them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

_resolve = socket.getaddrinfo


def _is_loopback(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _resolve_loopback_only(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
    if not _is_loopback(host):
        raise OSError(f"a test asked for the address of {host!r}; tests reach this machine only")
    return _resolve(host, *args, **kwargs)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Make every look-up of another machine's address fail at once, saying so."""
    socket.getaddrinfo = _resolve_loopback_only
    yield
    socket.getaddrinfo = _resolve


@pytest.fixture(autouse=True)
def no_traces_of_the_reference() -> Iterator[None]:
    """Take away what the reference's arguments leave in the environment: precision and compilation, for later runs."""
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    os.environ.update(before)
