from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.callbacks.warned import Warned
from hftrain.plugin_api.spool import Spool, read_events
from hftrain.plugin_api.tracker import Run, Tracker

logger = logging.getLogger("hftrain.of_a_test")


@pytest.fixture
def warned(tmp_path: Path) -> Iterator[Warned]:
    spool = Spool(str(tmp_path))
    found = Warned(spool, secrets=("hf_abc",))
    yield found
    found.close()
    spool.close()


def texts(folder: Path) -> list[tuple[str, str]]:
    events = read_events(str(folder / "events.jsonl"))
    return [(event.data["logger"], event.data["text"]) for event in events if event.type == "warning"]


def test_a_warning_of_our_logger_is_kept_with_its_step(tmp_path: Path, warned: Warned) -> None:
    warned.step = 7
    logger.warning("odd: %s", "x")
    logger.info("not this")
    logging.getLogger("another").warning("nor this")
    assert texts(tmp_path) == [("hftrain.of_a_test", "odd: x")]
    assert [event.step for event in read_events(str(tmp_path / "events.jsonl"))] == [7]


def test_a_python_warning_is_kept_and_shown_as_before(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        warned = Warned(Spool(str(tmp_path)))
        warnings.warn("take care", UserWarning, stacklevel=1)
        warned.close()
    assert texts(tmp_path) == [("py.warnings", "UserWarning: take care")]
    assert [str(one.message) for one in shown] == ["take care"]


def test_one_text_is_kept_once(tmp_path: Path, warned: Warned) -> None:
    for _ in range(3):
        logger.warning("again")
    assert len(texts(tmp_path)) == 1


def test_a_flood_of_texts_ends(tmp_path: Path, warned: Warned) -> None:
    for number in range(1100):
        logger.warning("%d", number)
    assert len(texts(tmp_path)) == 1000


def test_a_secret_is_masked(tmp_path: Path, warned: Warned) -> None:
    logger.warning("at hf_abc")
    assert texts(tmp_path) == [("hftrain.of_a_test", "at ***")]


def test_a_warning_in_the_middle_of_an_append_waits_for_the_next(tmp_path: Path, warned: Warned) -> None:
    with warned._spool._lock:
        logger.warning("in the middle")
    assert texts(tmp_path) == []
    warned.flush()
    assert texts(tmp_path) == [("hftrain.of_a_test", "in the middle")]


def test_after_the_end_nothing_is_kept_and_warnings_are_as_before(tmp_path: Path) -> None:
    before = warnings.showwarning
    spool = Spool(str(tmp_path))
    warned = Warned(spool)
    left_behind = warnings.showwarning
    warned.close()
    spool.close()
    logger.warning("late")
    with warnings.catch_warnings(record=True) as shown:
        left_behind("late", UserWarning, "x.py", 1)
    assert (texts(tmp_path), len(shown)) == ([], 1)
    assert warnings.showwarning is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_writes_nothing(tmp_path: Path) -> None:
    code = f"""
import logging, os
from hftrain.callbacks.warned import Warned
from hftrain.plugin_api.spool import Spool
warned = Warned(Spool({str(tmp_path)!r}))
child = os.fork()
logging.getLogger("hftrain").warning("child" if child == 0 else "parent")
if child:
    os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=dict(os.environ))
    assert texts(tmp_path) == [("hftrain", "parent")]


class Grumbles(Tracker):
    def log(self, metrics: object, step: int) -> None:
        logger.warning("the tracker is not amused")


def test_what_a_tracker_warns_of_does_not_come_back_to_it(tmp_path: Path) -> None:
    tracking = Tracking({"grumbles": Grumbles}, TrackingSettings(close_s=30))
    tracking.begin(Run(run_id="r", folder=str(tmp_path), output_dir=str(tmp_path)))
    for step in (1, 2):
        tracking.report("log", step=step, data={"loss": 1.0})
    tracking.end("finished", step=2)
    assert len(texts(tmp_path)) <= 1
    assert logging.getLogger("hftrain").handlers == []


def test_a_text_that_another_thread_writes_first_is_no_error(warned: Warned) -> None:
    class Emptied(list[tuple[str, str]]):
        """Empty by the time that something is taken."""

        def popleft(self) -> tuple[str, str]:
            raise IndexError("pop from an empty deque")

    warned._waiting = Emptied([("hftrain", "text")])  # type: ignore[assignment]
    warned.flush()
    warned._waiting.clear()
