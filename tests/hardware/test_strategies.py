from __future__ import annotations

from typing import Any

import pytest
import torch

from hftrain.hardware.precision import make_precision
from hftrain.hardware.strategies import make_strategy
from hftrain.hardware.world import read_world

TOLD = {"find_unused_parameters": True, "bucket_cap_mb": 3, "broadcast_buffers": False}


@pytest.mark.parametrize("given", [TOLD, {}])
def test_ddp_gets_the_options_that_were_set_and_no_others(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    cpu = torch.device("cpu")
    options = {**dict.fromkeys(TOLD), **given}
    strategy: Any = make_strategy(cpu, read_world(), make_precision("fp32", cpu), ddp_options=options)
    assert {name: strategy._ddp_kwargs[name] for name in TOLD if name in strategy._ddp_kwargs} == given
