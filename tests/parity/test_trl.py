"""TRL's own trainers, with our Trainer as their base, beside themselves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.parity.test_scripts import CLOCK, SCRIPTS

pytestmark = pytest.mark.slow

NAMES = ("sft", "dpo", "reward", "orpo", "cpo", "kto", "gkd", "prm", "grpo")
# TRL averages these over what it timed.
TIMES = ("profiling", "step_time")
# Operations are counted on the batch as it was loaded here, and after training_step there, where this one replaces it.
INTENDED = {("gkd", "total_flos")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("trl")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    for library in ("transformers", "hftrain"):
        command = [sys.executable, str(SCRIPTS / "trl_trainers.py"), str(folder), library]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {library: json.loads((folder / f"{library}.json").read_text()) for library in ("transformers", "hftrain")}


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_of_trl_writes_the_same_rows_on_ours(rows: Any, name: str) -> None:
    ours, theirs = rows["hftrain"][name], rows["transformers"][name]
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    different = [
        (row["step"], key, value, other[key])
        for row, other in zip(ours, theirs, strict=True)
        for key, value in row.items()
        if not (CLOCK.search(key) or key.startswith(TIMES) or (name, key) in INTENDED)
        and not math.isclose(value, other[key], rel_tol=1e-5, abs_tol=1e-6)
    ]
    assert different == []
