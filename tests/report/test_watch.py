from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from hftrain.errors import PluginUnavailableError
from hftrain.plugin_api.spool import Event
from hftrain.report import watch
from hftrain.report.runs import RunData, RunReader
from hftrain.report.watch import area, check_installed, clean, duration, ending, frame, line, number, trend
from tests.report.test_runs import TIMING, row


def event(type_: Any, step: int = 0, time: float = 0.0, **data: Any) -> Event:
    return Event(seq=1, time=time, type=type_, step=step, data=data)


def run_of(*events: Event) -> RunData:
    return RunReader("out/runs/20260101-000000-aaaaaa").feed(events).data()


def drawn(run: RunData, *, now: float = 100.0, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(frame(run, now=now, width=width))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def falling(num: int = 40) -> list[Event]:
    return [row(step, loss=math.exp(-step / 10), learning_rate=0.001) for step in range(1, num + 1)]


def test_the_frame_says_how_far_the_run_is() -> None:
    text = drawn(run_of(event("start", name="mine", max_steps=80), *falling()), now=41.0)
    assert "mine  20260101-000000-aaaaaa  running" in text
    assert "step 40 / 80" in text
    assert "50 %" in text
    assert "elapsed 0:00:41   left 0:00:40   1 steps/s" in text


def test_the_metrics_are_there_with_their_bounds_and_trend() -> None:
    text = drawn(run_of(*falling(), row(40, eval_loss=0.25)))
    (found,) = [one for one in text.splitlines() if one.startswith("loss ") and "█" in one]
    assert found.split()[1:4] == ["0.01832", "0.01832", "0.9048"]
    assert re.search(r"^eval_loss +0\.25 +0\.25 +0\.25", text, re.MULTILINE)


def test_the_loss_is_drawn_with_its_bounds_and_steps() -> None:
    lines = drawn(run_of(*falling())).splitlines()
    place = lines.index(next(one for one in lines if one.strip() == "loss"))
    chart = lines[place + 1 : place + 8]
    assert chart[0].split()[0] == "0.9048"
    assert chart[5].split()[0] == "0.01832"
    assert chart[6].split() == ["1", "40"]
    assert chart[0].count("█") < chart[5].count("█")


def test_the_time_the_checkpoint_and_the_warnings_are_there() -> None:
    noted = [event("checkpoint", 8, 70.0, name="checkpoint-8", path="x")]
    noted += [event("warning", 8, text=f"take care {number}", logger="hftrain") for number in range(5)]
    text = drawn(run_of(row(8, loss=1.0, timing=TIMING), *noted))
    assert "data 22 %  compute 56 %  log 11 %  eval 6 %  save 6 %  (562 ms a step)" in text
    assert "saved checkpoint-8, 0:00:30 ago" in text
    assert "5 warnings" in text
    assert "step 8: take care 4" in text
    assert "take care 1" not in text


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted", "pruned"])
def test_the_frame_says_how_the_run_ended(status: str) -> None:
    run = run_of(*falling(), event("finish", 40, status=status, error="ValueError: no" if status == "failed" else None))
    assert f"aaaaaa  {status}" in drawn(run)
    assert ("ValueError: no" in drawn(run)) == (status == "failed")
    assert ending(run).startswith(f"{status} at step 40")


def test_a_run_of_which_nothing_is_heard_says_so() -> None:
    assert "no news for 1 d 0:00:00" in drawn(run_of(*falling()), now=40.0 + 86400)


def test_a_resumed_run_says_from_where() -> None:
    assert "resumed at 20" in drawn(run_of(*falling(), event("resume", 20, 50.0)))


@pytest.mark.parametrize("width", [1, 10, 39, 60, 300])
def test_every_width_is_kept_to(width: int) -> None:
    run = run_of(event("start", name="n" * 50, max_steps=80), *falling(), row(40, eval_loss=0.25))
    assert max(map(len, drawn(run, width=width).splitlines())) <= width


def test_nothing_told_yet_is_drawn_too() -> None:
    assert "step 0" in drawn(run_of())


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite_are_shown_as_they_are(value: str) -> None:
    assert re.search(rf"^loss +{value} ", drawn(run_of(row(1, loss=1.0), row(2, loss=value))), re.MULTILINE)
    assert "nothing finite" in drawn(run_of(row(1, loss=value), row(2, loss=value)))


def test_a_record_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\r\x07[red]x"
    run = run_of(
        event("start", name=evil),
        row(1, **{evil: 1.0}),
        event("warning", text=evil),
        event("checkpoint", name=evil, path=""),
        event("finish", status="failed", error=evil),
    )
    assert not set("\x1b\r\x07") & set(drawn(run) + line(run, 1.0) + ending(run))
    assert "[red]x" in drawn(run)


def test_what_nobody_follows_is_left_out_and_too_many_are_counted() -> None:
    run = run_of(row(1, eval_runtime=1.0, **{f"metric_{place}": 1.0 for place in range(20)}))
    assert "eval_runtime" not in drawn(run)
    assert "and 6 more" in drawn(run)


def test_a_line_has_the_last_values() -> None:
    run = run_of(event("start", max_steps=80), *falling(), row(40, eval_loss=0.25))
    assert line(run, 41.0) == "step 40/80  loss 0.01832  eval_loss 0.25  learning_rate 0.001  1 steps/s  left 0:00:40"


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([5.0] * 3, "▅▅▅"),
        ([0.0, math.nan, 1.0], "▁!█"),
        ([0, 0, 7, 7, 1, math.inf], "▁█▂"),
        ([], ""),
        ([-1.7e308, 1.7e308], "▁█"),
    ],
)
def test_a_trend_is_a_block_for_each_part(values: list[float], blocks: str) -> None:
    assert trend(values, 3 if len(values) == 6 else 8) == blocks


def test_an_area_is_full_below_its_curve() -> None:
    assert area([0, 1], 4, 2, is_stretched=True) == ["  ██", "▁▁██"]


def test_numbers_and_durations_are_short() -> None:
    assert [number(one) for one in (0.00012346, 12345.0, 1e12, -0.5, None)] == [
        "0.0001235",
        "12,345",
        "1e+12",
        "-0.5",
        "nan",
    ]
    assert [duration(one) for one in (0, 61, 3600, 90061)] == ["0:00:00", "0:01:01", "1:00:00", "1 d 1:01:01"]
    assert clean("a\nb") == "a b"


def test_without_rich_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REQUIRES", ("rich-that-is-not-there>=1",))
    with pytest.raises(PluginUnavailableError, match=r'pip install "hftrain\[report\]"'):
        check_installed()
