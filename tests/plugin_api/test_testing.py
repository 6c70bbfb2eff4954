from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.testing import ContractError, check_tracker
from hftrain.plugin_api.tracker import Run, Tracker


class Good(Tracker):
    api = 1

    def start(self, run: Run) -> str | None:
        return run.remote_id or "id"


def test_a_tracker_that_keeps_to_the_contract_passes(tmp_path: Path) -> None:
    check_tracker(Good, tmp_path)


class OtherApi(Good):
    api = 2


class Lacking(Good):
    requires = ("no-such-net>=2",)


class TakesArguments(Good):
    def __init__(self, name: str) -> None:
        self.name = name


class FailsToStart(Good):
    def start(self, run: Run) -> str | None:
        raise OSError("no")


class AnotherRun(Good):
    def start(self, run: Run) -> str | None:
        return "second" if run.remote_id else "first"


class Refuses(Good):
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if any(math.isnan(value) for value in metrics.values()):
            raise ValueError("nan")


@pytest.mark.parametrize(
    ("tracker", "text"),
    [
        (OtherApi, "api is 2"),
        (Lacking, r"no-such-net>=2 \(not installed\)"),
        (TakesArguments, "cannot be made without arguments"),
        (FailsToStart, "start\\(\\) failed: OSError: no"),
        (AnotherRun, "start\\(\\) returned 'first', and"),
        (Refuses, "refused 1 events"),
    ],
)
def test_what_it_does_not_keep_to_is_named(tmp_path: Path, tracker: Any, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check_tracker(tracker, tmp_path)


def test_a_client_imported_at_the_modules_top_is_named(site: Path, tmp_path: Path) -> None:
    code = """
    import packaging.version
    from hftrain.plugin_api.tracker import Tracker

    class Eager(Tracker):
        api = 1
        requires = ("colorful-of-a-test",)
    """
    from tests.plugin_api.distributions import install

    install(site, "colorful-of-a-test", code="")
    install(site, "eager-of-a-test", code=code.replace("packaging.version", "colorful_of_a_test"))
    import importlib

    module = importlib.import_module("eager_of_a_test")
    with pytest.raises(ContractError, match="imports .'colorful_of_a_test'. at its top"):
        check_tracker(module.Eager, tmp_path)
    assert "eager_of_a_test" in sys.modules
