from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import TrainerMemoryTracker

from hftrain import DataModule, Trainer
from hftrain.trainer.memory import MemoryTracker
from tests.trainer.tasks import Fit, Points, arguments, trainer

MB = 2**20
TWO = {"cpu_alloc_delta", "cpu_peaked_delta"}


def measured(folder: Path, task: Any = None, **changes: Any) -> Trainer:
    data = DataModule(train=Points(), eval=Points(20), test=Points(20))
    return trainer(folder, task, data, skip_memory_metrics=False, **changes)


def memory_rows(metrics: dict[str, Any] | None) -> set[str]:
    return {name for name in metrics or {} if "_mem_" in name}


def rows_of(*stages: str) -> set[str]:
    before = {"before_init_mem_cpu"} if "init" in stages else set()
    return before | {f"{stage}_mem_{row}" for stage in stages for row in TWO}


def test_the_first_stage_tells_the_construction_too(tmp_path: Path) -> None:
    ours = measured(tmp_path)
    assert memory_rows(ours.evaluate()) == rows_of("init", "eval")
    assert memory_rows(ours.train().metrics) == rows_of("train")
    assert memory_rows(ours.predict(None).metrics) == rows_of("test")


def test_the_rows_have_the_references_names(tmp_path: Path) -> None:
    class Reference:
        """Its tracker derives the stage from the name of the calling method."""

        def __init__(self) -> None:
            self.tracker = TrainerMemoryTracker(skip_memory_metrics=False)
            self.tracker.start()
            self.tracker.stop_and_update_metrics()

        def evaluate(self) -> dict[str, Any]:
            metrics: dict[str, Any] = {}
            self.tracker.start()
            self.tracker.stop_and_update_metrics(metrics)
            return metrics

    assert memory_rows(measured(tmp_path).evaluate()) == Reference().evaluate().keys()


def test_an_evaluation_inside_training_belongs_to_it(tmp_path: Path) -> None:
    ours = measured(tmp_path, eval_strategy="epoch")
    assert memory_rows(ours.train().metrics) == rows_of("init", "train")
    rows = [memory_rows(row) for row in ours.state.log_history]
    assert rows[-1] == rows_of("init", "train")
    assert not any(rows[:-1])


def test_nothing_is_measured_unless_it_is_asked_for(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    assert memory_rows(ours.evaluate()) | memory_rows(ours.train().metrics) == set()
    assert not any(thread.name == "hftrain-memory" for thread in threading.enumerate())


def test_what_stays_is_told_apart_from_what_was_needed_for_a_while(tmp_path: Path) -> None:
    tracker, metrics = MemoryTracker(arguments(tmp_path, skip_memory_metrics=False)), dict[str, Any]()
    with tracker.stage("train") as add_memory:
        kept = torch.ones(32 * MB)  # 128 MB, as floats
        for_a_while = torch.ones(64 * MB)
        threading.Event().wait(0.05)  # a sample is taken
        del for_a_while
        add_memory(metrics)
    assert 100 * MB < metrics["train_mem_cpu_alloc_delta"] < 180 * MB
    assert 200 * MB < metrics["train_mem_cpu_peaked_delta"] < 300 * MB
    assert kept.numel() == 32 * MB


def test_an_error_ends_the_measurement_and_the_next_stage_is_measured(tmp_path: Path) -> None:
    class Breaks(Fit):
        breaks = True

        def training_step(self, batch: Any) -> Any:
            if self.breaks:
                raise ZeroDivisionError
            return super().training_step(batch)

    ours = measured(tmp_path, Breaks())
    with pytest.raises(ZeroDivisionError):
        ours.train()
    assert not any(thread.name == "hftrain-memory" for thread in threading.enumerate())
    ours.model.breaks = False
    assert memory_rows(ours.train().metrics) == rows_of("init", "train")


def test_without_psutil_a_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)  # an import of it fails
    with caplog.at_level(logging.WARNING, "hftrain"):
        metrics = measured(tmp_path).evaluate()
    assert memory_rows(metrics) == set()
    assert caplog.text.count("pip install psutil") == 1


def test_the_table_has_the_rows_in_megabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = measured(tmp_path, disable_tqdm=True)
    result = ours.train()
    capsys.readouterr()
    ours.log_metrics("train", result.metrics)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "_mem_" in line]
    assert {line[0] for line in lines} == rows_of("init", "train")
    assert all(line[2].endswith("MB") for line in lines)
