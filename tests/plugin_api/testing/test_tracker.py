from __future__ import annotations

import importlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.testing import ContractError, check_tracker
from tests.plugin_api.distributions import install
from tests.plugin_api.testing import trackers
from tests.plugin_api.testing.trackers import Good


@pytest.fixture
def reader(tmp_path: Path) -> Callable[[], Any]:
    return lambda: [tuple(point) for point in Good.read(str(tmp_path / "runs" / "checked" / "points.json"))]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_tracker_that_keeps_to_the_contract_passes(tmp_path: Path, reader: Callable[[], Any]) -> None:
    check_tracker(Good, tmp_path, read_back=reader)


@pytest.mark.parametrize(
    ("tracker", "text"),
    [
        (str, r"must subclass hftrain\.plugin_api\.tracker\.Tracker"),
        (trackers.OtherApi, "api is 2"),
        (trackers.Lacking, r"no-such-net>=2 \(not installed\)"),
        (trackers.TakesArguments, "cannot be made without arguments"),
        (trackers.AsksTheNetwork, r"unavailable_because\(\) uses the network"),
        (trackers.FailsToStart, r"start\(\) failed: OSError: no"),
        (trackers.AnotherRun, r"start\(\) returned 'first', and"),
        (trackers.NumberAsId, r"start\(\) returned 7: the service's id as a text"),
        (trackers.Refuses, "refused 1 events"),
        (trackers.NeedsARow, "the last one raised AttributeError"),
        (trackers.NoPictures, "refused 3 events"),
        (trackers.LosesOne, r"lost train/metric_17=3\.5 of step 6"),
        (trackers.CountsForItself, r"lost train/|is there 2 times"),
        (trackers.TellsTwice, "train/loss of step 4 is there 2 times|lost train/loss"),
        (trackers.OutOfOrder, "out of order"),
        (trackers.TellsSecrets, r"wrote a secret into .*points\.json\.env"),
        (trackers.DrawsNumbers, "changed Python's random numbers"),
        (trackers.LeavesAThread, "threads running that keep Python from ending: uploader"),
        (trackers.TakesTheSignal, "changed what SIGTERM does"),
    ],
)
def test_what_it_does_not_keep_to_is_named(tmp_path: Path, reader: Callable[[], Any], tracker: Any, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check_tracker(tracker, tmp_path, read_back=reader, timeout_s=2)


def test_a_service_that_takes_nothing_back_may_hold_steps_twice(tmp_path: Path, reader: Callable[[], Any]) -> None:
    check_tracker(trackers.TellsTwice, tmp_path, read_back=reader, repeats_after_resume=True)


EAGER = """
    {line}
    from hftrain.plugin_api.tracker import Tracker

    class Plugin(Tracker):
        api = 1
        extra = "{extra}"
    """


@pytest.mark.parametrize("line", ["import colorful_of_a_test", "from hftrain.cli.output import table"])
def test_what_a_module_may_not_import_at_its_top_is_named(site: Path, tmp_path: Path, line: str) -> None:
    install(site, "colorful-of-a-test", code="")
    install(site, "eager-of-a-test", code=EAGER.format(line=line, extra=""))
    module = importlib.import_module("eager_of_a_test")
    with pytest.raises(ContractError, match=r"colorful_of_a_test at its top|hftrain\.cli\.output"):
        check_tracker(module.Plugin, tmp_path)


def test_an_extra_that_its_distribution_lacks_is_named(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hftrain.plugin_api.registry import Registry

    metadata = ["Provides-Extra: net"]
    install(site, "named-of-a-test", plugins=["n"], code=EAGER.format(line="", extra="other"), metadata=metadata)
    monkeypatch.setattr("hftrain.plugin_api.testing.common.registry", Registry)
    module = importlib.import_module("named_of_a_test")
    with pytest.raises(ContractError, match="'other' is no extra of named-of-a-test; it has net"):
        check_tracker(module.Plugin, tmp_path)
