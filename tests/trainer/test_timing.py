from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftrain import TrainerCallback
from hftrain.plugin_api.spool import Event, read_events
from hftrain.report.runs import PARTS, read_run
from tests.trainer.tasks import trainer

REPORTED: dict[str, Any] = {"report_to": "local", "max_steps": 6, "logging_steps": 2, "save_strategy": "steps"}


def rows(tmp_path: Path) -> list[Event]:
    folder = read_run(str(tmp_path)).folder
    return [event for event in read_events(f"{folder}/events.jsonl") if event.type == "log"]


def test_every_row_of_the_loop_tells_what_the_time_was_spent_on(tmp_path: Path) -> None:
    trainer(tmp_path, **REPORTED, save_steps=2, eval_strategy="steps", eval_steps=2).train()
    timings = [event.data.get("timing") for event in rows(tmp_path)]
    # two rows of each window: the loop's, and the evaluation's; then the last one of the run
    assert [timing is not None for timing in timings] == [True, False, True, False, True, False, True]
    told = [timing for timing in timings if timing is not None]
    assert [timing["steps"] for timing in told] == [2, 2, 2, 0]
    assert all(timing[part] > 0 for timing in told[1:3] for part in PARTS)
    assert (told[0]["eval"], told[0]["save"]) == (0.0, 0.0)
    assert told[3]["eval"] > 0
    assert told[3]["save"] > 0


def test_nobody_but_the_record_is_told_of_it(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    class Seen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.append(set(logs))

    run = trainer(tmp_path, **REPORTED, callbacks=[Seen()])
    run.train()
    assert all("timing" not in row for row in [*run.state.log_history, *seen])
    assert len(read_run(str(tmp_path)).timing["steps"]) == 4


def test_a_run_that_nobody_hears_of_is_not_measured(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2)
    sources: list[str] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert run._runner is not None
            sources.append(type(run._runner.actions).__name__)

    run.add_callback(Look())
    run.train()
    assert sources == ["TrainerActions"] * 2


@pytest.mark.parametrize("accumulation", [1, 3])
def test_waiting_for_data_is_counted_also_inside_a_step(tmp_path: Path, accumulation: int) -> None:
    trainer(tmp_path, **{**REPORTED, "max_steps": 2}, gradient_accumulation_steps=accumulation).train()
    timing = read_run(str(tmp_path)).timing
    assert timing["data"].values[0] > 0
    assert timing["compute"].values[0] > 0
