from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.plugin_api.tracker import Run, Status, Tracker


def hook(*error: Any) -> None:
    pass


class TakesHooks(Tracker):
    """Replaces what clients were seen to replace, and leaves it."""

    def start(self, run: Run) -> str | None:
        sys.excepthook, sys.stdout = hook, io.StringIO()
        return None


class TakesHooksAndFails(TakesHooks):
    def finish(self, status: Status, error: str | None) -> None:
        raise OSError("the service is away")


def begun(tracker: type[Tracker], folder: Path) -> Tracking:
    tracking = Tracking({"takes": tracker}, TrackingSettings(close_s=0.1))
    tracking.begin(Run(run_id="r", folder=str(folder), output_dir=str(folder)))
    return tracking


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    for name in ("excepthook", "stdout"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back whatever a test leaves
    return sys.excepthook, sys.stdout


@pytest.mark.parametrize("tracker", [TakesHooks, TakesHooksAndFails])
def test_what_a_client_put_in_the_place_of_pythons_own_is_gone_after_the_run(
    tracker: type[Tracker], before: tuple[Any, Any], tmp_path: Path
) -> None:
    tracking = begun(tracker, tmp_path)
    during = sys.excepthook
    tracking.end("finished", step=0)
    assert during is hook
    assert (sys.excepthook, sys.stdout) == before


def test_a_hook_that_came_after_the_clients_stays(before: tuple[Any, Any], tmp_path: Path) -> None:
    tracking = begun(TakesHooks, tmp_path)
    later = sys.excepthook = lambda *error: None
    tracking.end("finished", step=0)
    assert sys.excepthook is later
    assert sys.stdout is before[1]
