from __future__ import annotations

import time
from pathlib import Path

import pytest

from hftrain.args.training import TrainingArguments
from tests.distributed.launch import launch

pytestmark = pytest.mark.slow


def find_what_the_main_process_made(folder: str) -> list[object]:
    args = TrainingArguments("out", use_cpu=True)
    made = Path(folder) / "made"
    with args.main_process_first(desc="making a file"):
        found = made.exists()
        if not found:
            time.sleep(0.3)  # long enough for the other process to be here first, if it did not wait
            made.touch()
    return [found, args.local_rank, args.world_size, args.parallel_mode.value]


def fail_on_the_main_process() -> str:
    args = TrainingArguments("out", use_cpu=True, ddp_timeout=60)
    try:
        with args.main_process_first():
            if args.process_index == 0:
                raise ValueError("no such data set")
    except ValueError as error:
        return str(error)
    return "let in"


def test_the_others_find_what_the_main_process_made(tmp_path: Path) -> None:
    assert launch(find_what_the_main_process_made, str(tmp_path)) == [
        [False, 0, 2, "distributed"],
        [True, 1, 2, "distributed"],
    ]


def test_the_others_are_let_in_when_the_main_process_fails() -> None:
    assert launch(fail_on_the_main_process) == ["no such data set", "let in"]
