from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hftrain.errors import PluginUnavailableError
from hftrain.report import page
from hftrain.report.document import labels_of
from hftrain.report.page import MAX_BYTES, embedded, page_of, write_page
from hftrain.report.runs import Note, RunData, RunReader
from tests.report.kit import losses, make_run

HOSTILE = "</script><script>alert(1)</script><!--put:plotly--><img src=x onerror=alert(1)>&\u2028\ud800"


def steps_of(curve: dict[str, Any]) -> list[int]:
    return list(itertools.accumulate(curve["steps"]))


def test_the_page_carries_the_runs_numbers(tmp_path: Path) -> None:
    (run,) = embedded(page_of([make_run(tmp_path / "a")]))["runs"]
    assert steps_of(run["curves"]["loss"]) == list(range(10, 210, 10))
    assert run["curves"]["loss"]["values"] == [float(f"{loss:.7g}") for loss in losses(20)]
    assert steps_of(run["curves"]["eval_loss"]) == [50, 100, 150, 200]
    assert run["rate"]["values"] == [pytest.approx(10 / 0.875)] * 20
    assert run["timing"]["ms"]["compute"] == [50] * 20
    assert run["timing"]["seconds"] == {"data": 5, "compute": 10, "log": 2.5, "eval": 0, "save": 2.5}
    assert [one["name"] for one in run["checkpoints"]] == [f"checkpoint-{step}" for step in (50, 100, 150, 200)]


def test_runs_are_compared_by_the_arguments_in_which_they_differ(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{seed}", seed=seed, output_dir=f"out-{seed}") for seed in range(3)]
    document = embedded(page_of(runs))
    assert document["differing"] == ["seed"]
    assert [run["arguments"] for run in document["runs"]] == [{"seed": n, "output_dir": f"out-{n}"} for n in range(3)]
    assert document["shared"]["arguments"] == {"learning_rate": 0.001}
    assert document["shared"]["environment"] == {"python": "3.11", "device": "cpu"}


def test_an_argument_that_one_run_lacks_is_a_difference(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", newer=None)]
    assert embedded(page_of(runs))["differing"] == ["newer"]


def test_runs_of_one_name_are_told_apart() -> None:
    runs = [RunData(folder="", run_id=f"id-{number}", name=name) for number, name in enumerate(["a", "b", "a", None])]
    assert labels_of(runs) == ["a · id-0", "b", "a · id-2", "id-3"]
    assert labels_of([RunData(folder="", run_id="x", name="a")] * 2) == ["a · x · 1", "a · x · 2"]


def test_nothing_that_a_run_says_becomes_part_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "t.txt").write_text("</script>")
    media = [{"name": HOSTILE, "kind": "text", "path": "t.txt"}]
    run = make_run(tmp_path / "a", name=HOSTILE, status="failed", error=HOSTILE, media=media, **{HOSTILE: HOSTILE})
    text, calm = page_of([run]), page_of([make_run(tmp_path / "b")])
    for mark in ("<script", "</script", "<!--", "<img", "onerror=alert(1)>"):
        assert text.count(mark) == calm.count(mark)
    (shown,) = embedded(text)["runs"]
    assert shown["error"] == HOSTILE
    assert embedded(text)["shared"]["arguments"][HOSTILE] == HOSTILE


def test_thirty_long_runs_stay_below_eight_megabytes(tmp_path: Path) -> None:
    event = make_run(tmp_path / "a").arguments
    values = [1 / 3 + number / 7e5 for number in range(20_000)]
    columns = {name: values for name in ("loss", "grad_norm", "learning_rate", *(f"metric_{n}" for n in range(12)))}
    run = RunData(folder=str(tmp_path / "a"), run_id="a", arguments=event, series=series_of(columns))
    text = page_of([run] * 30)
    assert len(text.encode()) < MAX_BYTES
    document = embedded(text)
    assert all(len(one["curves"]["loss"]["values"]) > 300 for one in document["runs"])


def series_of(columns: dict[str, list[float]]) -> Any:
    from hftrain.report.runs import Series

    return {name: Series(range(1000, 1000 + 13 * len(values), 13), values, values) for name, values in columns.items()}


def test_a_long_text_or_many_warnings_do_not_blow_the_page_up(tmp_path: Path) -> None:
    from hftrain.plugin_api.spool import Event

    said = [
        Event(seq=n, time=1.0, type="warning", step=n, data={"text": f"{n % 400} " * 2000, "logger": "hftrain"})
        for n in range(1, 2000)
    ]
    start = Event(seq=0, time=1.0, type="start", step=0, data={"arguments": {str(n): "x" * 9999 for n in range(999)}})
    run = RunReader(str(tmp_path)).feed([start, *said]).data()
    text = page_of([run] * 3)
    assert len(text.encode()) < MAX_BYTES
    (shown, *_) = embedded(text)["runs"]
    assert (len(shown["warnings"]), shown["num_warnings"], shown["warnings"][0]["num"]) == (300, 1999, 5)


def said_much(run: int, *, metrics: int = 0) -> RunData:
    """A run that shares nothing with the others: its warnings, settings and metrics are its own, and long."""
    told = [Note(step=n, time=1.0, name="hftrain", text=f"{run} {n} {'é' * 1500}") for n in range(300)]
    settings = {f"{name}-{run} {'n' * 200}": f"{run} {'v' * 400}" for name in range(40)}
    columns = {f"{'m' * 900} {run} {name}": [1.5, 0.5] for name in range(metrics)}
    named: dict[str, Any] = {"name": "n" * 9999, "trial": f"{run}" * 9999, "group": "g" * 9999, "error": "e" * 9999}
    parts = {"arguments": settings, "model": settings, "environment": settings, "params": settings}
    return RunData(
        folder="/" * 9999, run_id=f"{run}" * 999, warnings=told, checkpoints=told, artifacts=told, media=told,
        series=series_of(columns), **named, **parts,
    )  # fmt: skip


def test_thirty_runs_that_differ_in_all_they_say_stay_below_eight_megabytes() -> None:
    text = page_of([said_much(run) for run in range(30)], title="t" * 9_000_000)
    assert len(text.encode()) < MAX_BYTES
    document = embedded(text)
    assert len(document["runs"]) == document["num_runs"] == 30
    assert all(len(one["warnings"]) >= 8 and one["num_warnings"] == 300 for one in document["runs"])


def test_words_give_way_before_the_curves_do() -> None:
    columns = {"loss": [1 / 3 + number / 7e5 for number in range(20_000)]}
    runs = [dataclasses.replace(said_much(run), series=series_of(columns)) for run in range(4)]
    document = embedded(page_of(runs))
    assert all(len(one["curves"]["loss"]["values"]) > 1900 for one in document["runs"])


def test_many_metrics_of_long_names_stay_below_eight_megabytes() -> None:
    text = page_of([said_much(run, metrics=1500) for run in range(4)])
    assert len(text.encode()) < MAX_BYTES
    assert all(one["curves"] for one in embedded(text)["runs"])


def test_of_more_runs_than_there_is_room_for_the_first_are_shown_and_the_number_told() -> None:
    run = RunData(folder="f", run_id="r" * 99, arguments={str(n): "<" * 99 for n in range(4)})
    runs = [dataclasses.replace(run, params={str(n): f"{place}{'<' * 99}" for n in range(8)}) for place in range(2000)]
    text = page_of(runs)
    document = embedded(text)
    assert len(text.encode()) < MAX_BYTES
    assert 100 < len(document["runs"]) < document["num_runs"] == 2000


def test_the_page_asks_nothing_of_anybody(tmp_path: Path) -> None:
    text = page_of([make_run(tmp_path / "a")])
    own = text.replace(page._plotly(), "")
    assert not re.search(r"""(src|href)=["']?(?!data:|#)[a-z./]""", own.split('<script type="application/json"')[0])
    assert "default-src 'none'" in own
    assert text.count("plotly.js v") >= 1


def test_a_run_without_a_number_has_a_page(tmp_path: Path) -> None:
    (run,) = embedded(page_of([make_run(tmp_path / "a", rows=0, status=None)]))["runs"]
    assert (run["curves"], run["rate"], run["timing"], run["status"]) == ({}, None, None, None)


def test_a_page_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = make_run(tmp_path / "a"), tmp_path / "page.html"
    path.write_text("the one before")

    def refuse(*names: str) -> None:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no"):
            write_page(str(path), [run])
    assert path.read_text() == "the one before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "page.html"]
    assert write_page(str(path), [run]) == path.stat().st_size


def test_without_plotly_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftrain.plugin_api.needs.REPORT_REQUIRES", ("no-such-script>=1",))
    with pytest.raises(PluginUnavailableError, match=re.escape('Run: pip install "hftrain[report]"')):
        page_of([make_run(tmp_path / "a")])


def test_numbers_that_a_browser_would_change_are_words(tmp_path: Path) -> None:
    shared = embedded(page_of([make_run(tmp_path / "a", seed=2**60, size=float(2**70))]))["shared"]["arguments"]
    assert json.dumps(shared["seed"]) == f'"{2**60}"'
    assert isinstance(shared["size"], str)
