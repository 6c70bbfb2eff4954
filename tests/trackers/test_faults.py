"""Whatever goes wrong with a tracker's service costs a warning: for every shipped tracker, with its real client."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.environments import ENVIRONMENTS, environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

SCRIPT = Path(__file__).with_name("faults.py")
TRACKERS = sorted(ENVIRONMENTS.keys() - {"azure_ml", "dagshub"})  # these need a server: test_http_faults.py has one
STEPS = list(range(1, 21))
IN_ONE_PIECE = ("flyte",)
"""Their page is made of what one process knows: it is told what was told before as well."""
each_tracker = pytest.mark.parametrize("tracker", TRACKERS)


@functools.cache
def outcomes(tracker: str) -> dict[str, dict[str, Any]]:
    """What came of every fault, from one process for a tracker; it exits although threads of it hang for ever."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(
            [sys.executable, str(SCRIPT), tracker, str(folder / "out")],
            check=False,
            cwd=folder,
            env=environment(tracker, folder),
            capture_output=True,
            text=True,
            timeout=240,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"refuses_at_start"')]
    assert lines, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(lines[-1])
    return found


def warned(found: dict[str, Any], tracker: str, text: str) -> int:
    return len([line for line in found["warnings"] if line.startswith(tracker) and text in line])


@each_tracker
@pytest.mark.parametrize(
    ("kind", "text"),
    [("refuses_at_start", "ConnectionRefusedError: nobody listens there"), ("hangs_at_start", "within 0.2 s")],
)
def test_a_start_that_fails_stops_before_the_first_step(tracker: str, kind: str, text: str) -> None:
    found = outcomes(tracker)[kind]
    assert found["steps"] == 0
    assert f"{tracker}: " in found["error"]
    assert text in found["error"]


@each_tracker
@pytest.mark.parametrize("kind", ["raises_always", "disk_full", "dies_at_step_10"])
def test_one_that_stays_broken_costs_a_warning_and_is_told_the_rest_later(tracker: str, kind: str) -> None:
    found = outcomes(tracker)[kind]
    assert (found["steps"], found["rows"], found["error"]) == (20, STEPS, None)
    assert warned(found, tracker, "cannot be told") == 1
    assert warned(found, tracker, "hftrain replay") == 1
    assert found["told"] == (STEPS[:9] if kind == "dies_at_step_10" else [])
    again = found["told"] if tracker in IN_ONE_PIECE else []
    assert [*found["told"], *found["later"]] == [*again, *STEPS]
    assert found["left"] == 0


@each_tracker
@pytest.mark.parametrize("kind", ["comes_back", "answers_garbage"])
def test_one_that_comes_back_is_told_everything_in_order_and_once(tracker: str, kind: str) -> None:
    found = outcomes(tracker)[kind]
    assert (found["steps"], found["told"], found["ends"]) == (20, STEPS, ["finished"])
    assert warned(found, tracker, "cannot be told") == 1


@each_tracker
def test_no_step_waits_for_a_tracker(tracker: str) -> None:
    found = outcomes(tracker)["takes_its_time"]
    assert (found["told"], found["ends"], found["warnings"]) == (STEPS, ["finished"], [])


@each_tracker
def test_an_end_that_hangs_is_left_and_the_command_is_named(tracker: str) -> None:
    found = outcomes(tracker)["hangs_at_the_end"]
    assert (found["steps"], found["told"], found["rows"]) == (20, STEPS, STEPS)
    assert warned(found, tracker, "hftrain replay") == 1
