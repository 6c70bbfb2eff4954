from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftrain.plugin_api.spool import Event, Spool, valid_events
from hftrain.report.runs import PARTS, RunReader, read_run, steps_per_second

TIMING = {"data": 1.0, "compute": 2.5, "log": 0.5, "eval": 0.25, "save": 0.25, "steps": 8}


def spool_at(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path / "runs" / "a"))


def row(step: int, **data: Any) -> Event:
    return Event(seq=step, time=float(step), type="log", step=step, data=data)


def test_a_run_is_read_with_all_that_was_told_of_it(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    start = {"name": "mine", "arguments": {"seed": 1}, "model": {"size": 2}, "environment": {"python": "3"}}
    spool.append("start", step=0, data=start | {"trial": "t", "params": {"lr": 0.1}, "group": "g"})
    spool.append("log", step=5, epoch=0.5, data={"loss": 2.0, "grad_norm": 1.0})
    spool.append("checkpoint", step=5, data={"name": "checkpoint-5", "path": "out/checkpoint-5"})
    spool.append("warning", step=5, data={"text": "slow", "logger": "hftrain.data"})
    spool.append("media", step=5, data={"name": "picture", "kind": "image", "path": "media/a.png"})
    spool.append("finish", step=5, data={"status": "failed", "error": "ValueError: no"})
    run = read_run(str(tmp_path))
    assert (run.run_id, run.name, run.status, run.error) == ("a", "mine", "failed", "ValueError: no")
    assert (run.arguments, run.model, run.environment) == ({"seed": 1}, {"size": 2}, {"python": "3"})
    assert (run.trial, run.params, run.group, run.step, run.epoch) == ("t", {"lr": 0.1}, "g", 5, 0.5)
    assert list(run.series["loss"].steps) == [5]
    assert list(run.series["loss"].values) == [2.0]
    assert [(one.name, one.text) for one in run.checkpoints] == [("checkpoint-5", "out/checkpoint-5")]
    assert [(one.name, one.text) for one in run.warnings] == [("hftrain.data", "slow")]
    assert [(one.name, one.kind, one.text) for one in run.media] == [("picture", "image", "media/a.png")]


def test_a_run_whose_end_is_not_told_has_no_status(tmp_path: Path) -> None:
    spool_at(tmp_path).append("start", step=0)
    run = read_run(str(tmp_path))
    assert run.status is None
    assert run.series == {}


@given(
    st.lists(
        st.tuples(st.sampled_from(["log", "checkpoint", "warning", "resume", "finish", "start"]), st.integers(0, 9)),
        max_size=30,
    )
)
def test_what_a_resume_makes_void_is_what_every_reader_drops(told: list[tuple[Any, int]]) -> None:
    events = [
        Event(seq=seq, time=1.0, type=kind, step=step, data={"loss": float(seq), "text": str(seq), "path": str(seq)})
        for seq, (kind, step) in enumerate(told, start=1)
    ]
    run, valid = RunReader("a").feed(events).data(), valid_events(events)
    losses = list(run.series["loss"].values) if run.series else []
    assert losses == [event.seq for event in valid if event.type == "log"]
    assert [note.text for note in run.checkpoints] == [str(event.seq) for event in valid if event.type == "checkpoint"]
    assert [note.text for note in run.warnings] == [str(event.seq) for event in valid if event.type == "warning"]


def test_a_reader_goes_on_where_it_was() -> None:
    events = [row(step, loss=1.0 / step) for step in range(1, 7)]
    reader = RunReader("a").feed(events[:3])
    first = reader.data()
    again = reader.feed(events[3:]).data()
    assert again == RunReader("a").feed(events).data()
    assert len(first.series["loss"]) == 3


def test_numbers_that_are_not_finite_are_numbers() -> None:
    values = RunReader("a").feed([row(1, loss="nan"), row(2, loss="inf"), row(3, loss="-inf")]).data().series["loss"]
    assert math.isnan(values.values[0])
    assert list(values.values[1:]) == [math.inf, -math.inf]


@pytest.mark.parametrize("value", ["text", None, True, [1.0], {"a": 1}, 10**400])
def test_what_is_no_number_is_no_point(value: Any) -> None:
    assert list(RunReader("a").feed([row(1, loss=2.0, other=value)]).data().series) == ["loss"]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[]",
        b'{"v": 1}',
        b"\xff\xfe",
        b'{"v":1,"seq":1,"time":"x","type":"log","step":1,"epoch":"y","data":{"loss":[]}}',
        b'{"v":1,"seq":1,"time":1,"type":"log","step":-4,"epoch":1,"data":{"loss":1}}',
        b'{"v":1,"seq":1,"time":1,"type":"log","step":99999999999999999999,"epoch":1,"data":{"loss":1}}',
        b'{"v":1,"seq":1,"time":1,"type":"start","step":1,"data":{"arguments":7,"name":{}}}',
        b'{"v":1,"seq":1,"time":1,"type":"checkpoint","step":1,"data":{"path":[1]}}',
        b'{"v":1,"seq":1,"time":1,"type":"log","step":1,"data":{"timing":{"data":"x"}}}',
    ],
)
def test_a_strange_row_costs_the_other_rows_nothing(tmp_path: Path, line: bytes) -> None:
    good = row(3, loss=1.0).to_line()
    path = tmp_path / "events.jsonl"
    path.write_bytes(good + line + b"\n" + good + b'{"v":1,"seq":9,"ti')
    assert list(read_run(str(tmp_path)).series["loss"].steps) == [3, 3]


def test_the_timing_is_apart_from_the_metrics() -> None:
    run = RunReader("a").feed([row(8, loss=1.0, timing=TIMING)]).data()
    assert list(run.series) == ["loss"]
    assert {name: one.values[0] for name, one in run.timing.items()} == TIMING


@pytest.mark.parametrize("lacking", PARTS)
def test_a_timing_that_lacks_a_part_is_passed_over(lacking: str) -> None:
    timing = {name: value for name, value in TIMING.items() if name != lacking}
    assert RunReader("a").feed([row(1, loss=1.0, timing=timing)]).data().timing == {}


def test_throughput_is_of_the_time_that_is_spent_on_steps() -> None:
    rates = steps_per_second(RunReader("a").feed([row(8, loss=1.0, timing=TIMING)]).data())
    assert (list(rates.steps), list(rates.values)) == ([8], [2.0])


def test_throughput_comes_from_the_times_of_rows_where_there_is_no_timing() -> None:
    events = [Event(seq=n, time=n * 2.0, type="log", step=n * 10, data={"loss": 1.0}) for n in range(1, 4)]
    rates = steps_per_second(RunReader("a").feed(events).data())
    assert (list(rates.steps), list(rates.values)) == ([20, 30], [5.0, 5.0])


def test_reading_loads_no_torch() -> None:
    code = "import sys, hftrain.report.runs; print(json.dumps([n for n in ('torch', 'numpy') if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
