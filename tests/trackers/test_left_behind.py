"""What a tracker leaves in the process when it has ended."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hftrain.plugin_api.tracker import Run
from hftrain_integrations._mlflow import MlflowRun
from hftrain_integrations.dagshub_tracker import DagshubTracker

NAMES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/me/demo.mlflow")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "k" * 20)
    monkeypatch.delenv(NAMES[0], raising=False)
    monkeypatch.setenv(NAMES[1], "own")
    monkeypatch.setattr(MlflowRun, "finish", lambda *given: None)
    return monkeypatch


def test_dagshubs_key_stands_in_no_variable_of_mlflow_after_the_end(keyed: pytest.MonkeyPatch) -> None:
    keyed.setattr(MlflowRun, "start", lambda *given: os.environ[NAMES[1]])
    tracker = DagshubTracker()
    assert tracker.start(Run(run_id="r")) == "k" * 20
    tracker.finish("finished", None)
    assert [os.environ.get(name) for name in NAMES] == [None, "own"]


def test_nor_after_a_start_that_fails(keyed: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise ConnectionError("no")

    keyed.setattr(MlflowRun, "start", refuse)
    with pytest.raises(ConnectionError):
        DagshubTracker().start(Run(run_id="r"))
    assert [os.environ.get(name) for name in NAMES] == [None, "own"]
