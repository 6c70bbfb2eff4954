"""What can be seen in one process; tests/distributed/test_process_group.py has two."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from hftrain.errors import HardwareError
from hftrain.hardware.process_group import ensure_process_group, first, shutdown

CPU = torch.device("cpu")


@pytest.fixture
def _started_as_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)


def test_one_process_needs_no_group() -> None:
    ensure_process_group(None, 60, CPU)
    assert not dist.is_initialized()
    with first(False):
        shutdown()


@pytest.mark.usefixtures("_started_as_one_of_two")
def test_a_missing_address_is_named() -> None:
    with pytest.raises(HardwareError, match="MASTER_ADDR, MASTER_PORT is not set.*torchrun"):
        ensure_process_group(None, 60, CPU)


@pytest.mark.usefixtures("_started_as_one_of_two")
@pytest.mark.parametrize("backend", ["no_such_backend", "cpu:gloo,cuda:no_such_backend"])
def test_a_backend_that_torch_lacks_is_named(backend: str) -> None:
    with pytest.raises(HardwareError, match="has no 'no_such_backend'.*ddp_backend=None"):
        ensure_process_group(backend, 60, CPU)
