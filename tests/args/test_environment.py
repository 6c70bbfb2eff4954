from __future__ import annotations

import logging
from datetime import timedelta

import pytest
import torch

from hftrain.args.environment import accelerator_of
from hftrain.args.training import TrainingArguments
from hftrain.types.choices import ParallelMode


def launched(monkeypatch: pytest.MonkeyPatch, *, rank: int, world: int, on_node: int) -> None:
    """Pretend that torchrun started this process."""
    variables = {"RANK": rank, "LOCAL_RANK": rank % on_node, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": on_node}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_one_process_is_the_main_one() -> None:
    args = TrainingArguments("out")
    assert (args.world_size, args.process_index, args.local_process_index) == (1, 0, 0)
    assert args.parallel_mode is ParallelMode.NOT_PARALLEL
    assert (args.should_log, args.should_save, args.place_model_on_device) == (True, True, True)


def test_ranks_are_read_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=3, world=4, on_node=2)
    args = TrainingArguments("out")
    assert (args.world_size, args.process_index, args.local_process_index) == (4, 3, 1)
    assert args.parallel_mode is ParallelMode.DISTRIBUTED


@pytest.mark.parametrize(
    ("rank", "each_node", "expected"), [(0, True, True), (2, True, True), (2, False, False), (3, True, False)]
)
def test_who_logs_depends_on_log_on_each_node(
    monkeypatch: pytest.MonkeyPatch, rank: int, each_node: bool, expected: bool
) -> None:
    launched(monkeypatch, rank=rank, world=4, on_node=2)
    assert TrainingArguments("out", log_on_each_node=each_node).should_log is expected


@pytest.mark.parametrize(("each_node", "expected"), [(True, True), (False, False)])
def test_who_saves_depends_on_save_on_each_node(
    monkeypatch: pytest.MonkeyPatch, each_node: bool, expected: bool
) -> None:
    launched(monkeypatch, rank=2, world=4, on_node=2)
    assert TrainingArguments("out", save_on_each_node=each_node).should_save is expected


def test_the_log_level_of_a_replica_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainingArguments("out", log_level="debug").get_process_log_level() == logging.DEBUG
    launched(monkeypatch, rank=1, world=2, on_node=2)
    args = TrainingArguments("out", log_level="debug", log_level_replica="error")
    assert args.get_process_log_level() == logging.ERROR


def test_a_passive_log_level_is_the_one_hftrain_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("hftrain"), "level", logging.INFO)
    assert TrainingArguments("out").get_process_log_level() == logging.INFO


def test_the_batch_sizes_are_those_of_this_process() -> None:
    args = TrainingArguments("out", per_device_train_batch_size=3, per_device_eval_batch_size=5)
    assert (args.train_batch_size, args.eval_batch_size) == (3, 5)


@pytest.mark.parametrize(("steps", "ratio", "expected"), [(0, 0.11, 12), (7, 0.11, 7), (0, 0.0, 0), (0, 1.0, 101)])
def test_warmup_steps_override_the_ratio_which_is_rounded_up(steps: int, ratio: float, expected: int) -> None:
    assert TrainingArguments("out", warmup_steps=steps, warmup_ratio=ratio).get_warmup_steps(101) == expected


def test_the_timeout_is_also_a_duration() -> None:
    assert TrainingArguments("out", ddp_timeout=10).ddp_timeout_delta == timedelta(seconds=10)


def test_the_cpu_is_used_when_asked_for() -> None:
    args = TrainingArguments("out", use_cpu=True)
    assert (args.device, args.n_gpu) == (torch.device("cpu"), 0)


def test_the_accelerator_is_the_engine_s_word_for_it() -> None:
    with pytest.warns(UserWarning, match="use_mps_device"):
        mps = TrainingArguments("out", use_mps_device=True)
    found = [accelerator_of(args) for args in (TrainingArguments("out"), TrainingArguments("out", use_cpu=True), mps)]
    assert found == ["auto", "cpu", "mps"]


def test_a_script_may_say_how_many_gpus_it_uses() -> None:
    args = TrainingArguments("out")
    args._n_gpu = 1
    assert args.n_gpu == 1


def test_one_process_does_its_work_at_once() -> None:
    with TrainingArguments("out").main_process_first(desc="tokenizing"):
        done = True
    assert done


def test_what_the_block_raises_is_raised() -> None:
    with pytest.raises(KeyError), TrainingArguments("out").main_process_first():
        raise KeyError("column")
