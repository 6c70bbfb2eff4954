"""Who creates the process group, and who ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hftrain.errors import HardwareError
from hftrain.hardware.engine import create_engine
from hftrain.hardware.process_group import ensure_process_group, first, shutdown
from hftrain.hardware.settings import EngineSettings
from tests.distributed.launch import launch, launch_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the threads of a process are read from /proc"),
]


def refusal(**settings: Any) -> str:
    try:
        create_engine(EngineSettings(accelerator="cpu", **settings))
    except HardwareError as error:
        return str(error)
    return ""


def use_a_foreign_group() -> dict[str, Any]:
    dist.init_process_group("gloo")
    other_backend = refusal(ddp_backend="nccl")
    engine = create_engine(EngineSettings(accelerator="cpu"))
    everyone = engine.gather_object(engine.process_index)
    shutdown()
    survives, threads = dist.is_initialized(), gloo_threads()
    dist.barrier()
    dist.destroy_process_group()
    return {
        "other_backend": other_backend,
        "everyone": everyone,
        "survives": survives,
        "threads": [threads > 0, gloo_threads()],
    }


def gloo_threads() -> int:
    """Threads that would abort the process if they outlived the interpreter; Linux only."""
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


def use_our_group(order_file: str) -> dict[str, Any]:
    unknown = refusal(ddp_backend="no_such_backend")
    ensure_process_group(None, 60, torch.device("cpu"))
    with first(dist.get_rank() == 0), open(order_file, "a") as file:
        file.write(f"{dist.get_rank()}\n")
    result = {
        "unknown": unknown,
        "other_timeout": refusal(ddp_timeout_s=61),
        "other_backend": refusal(ddp_backend="nccl", ddp_timeout_s=60),
        "again": refusal(ddp_timeout_s=60),
    }
    dist.barrier()
    shutdown()
    result["is_gone"] = not dist.is_initialized() and gloo_threads() == 0
    return result


def test_a_group_that_other_code_made_is_checked_used_and_left_alone() -> None:
    for rank in launch(use_a_foreign_group):
        assert "other code already created the process group with 'gloo'" in rank["other_backend"]
        assert rank["everyone"] == [0, 1]
        assert rank["survives"]
        assert rank["threads"] == [True, 0]  # nothing of ours holds the group once its owner destroyed it


def test_our_own_group_refuses_contradictions_and_ends_when_told(tmp_path: Any) -> None:
    order = tmp_path / "order"
    for rank in launch(use_our_group, str(order)):
        assert "no_such_backend" in rank["unknown"]
        assert "ddp_timeout=61" in rank["other_timeout"]
        assert "an earlier run in this process already created" in rank["other_backend"]
        assert rank["again"] == ""
        assert rank["is_gone"]
    assert order.read_text().split() == ["0", "1"]


SCRIPT = """
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings
import torch
engine = create_engine(EngineSettings(accelerator="cpu", ddp_timeout_s=60))
engine.gather(torch.ones(engine.process_index + 1))
engine.broadcast_object("x")
"""


def test_a_script_that_never_closes_the_engine_exits_cleanly(tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = launch_script(script, env={"SLURM_NTASKS": "7", "LT_DEVICES": "5", "LT_ACCELERATOR": "tpu"})
    assert done.returncode == 0, done.stderr
    assert "terminate called" not in done.stderr
