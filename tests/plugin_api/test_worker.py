from __future__ import annotations

import contextvars
import errno
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from hftrain.plugin_api import worker
from hftrain.plugin_api.spool import Spool, read_events
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.worker import Delivery, Patience, TrackerStartError, is_outage

RUN = Run(run_id="r")
QUICK = Patience(first=0.001, most=0.002)


class Service(Tracker):
    """Notes what it is told; is away as long as `away` is set; refuses the steps in `refuses`."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.status: tuple[str, str | None] | None = None
        self.away = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.tried = threading.Semaphore(0)
        self.refuses: set[int] = set()

    def start(self, run: Run) -> str | None:
        return "remote-1"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.gate.wait()
        self.tried.release()
        if self.away.is_set():
            raise ConnectionError("nobody is there")
        if step in self.refuses:
            raise ValueError("not that one")
        self.told.append(step)

    def finish(self, status: str, error: str | None) -> None:
        self.status = (status, error)


class Kit:
    """A spool, and deliveries from it."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(str(folder))
        self.service = Service()

    def delivery(self) -> Delivery:
        delivery = Delivery("fake", self.service, self.spool.path, patience=QUICK)
        delivery.launch(RUN, last_seq=self.spool.last_seq)
        delivery.wait_for_start()
        return delivery

    def log(self, delivery: Delivery | None, *steps: int) -> None:
        for step in steps:
            event = self.spool.append("log", step=step, data={"loss": 1.0})
            if delivery is not None:
                delivery.offer(event)

    def finish(self, delivery: Delivery, *, timeout_s: float = 30.0) -> bool:
        delivery.offer(self.spool.append("finish", step=99, data={"status": "finished"}))
        return delivery.close(timeout_s=timeout_s)


def started(delivery: Delivery, timeout_s: float = 30.0) -> Delivery:
    delivery.launch(RUN)
    delivery.wait_for_start(timeout_s=timeout_s)
    return delivery


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def test_everything_is_told_in_order_and_then_the_end(kit: Kit) -> None:
    delivery = kit.delivery()
    kit.log(delivery, 1, 2, 3)
    assert kit.finish(delivery)
    assert (kit.service.told, kit.service.status) == ([1, 2, 3], ("finished", None))


def test_the_services_id_is_known_when_it_has_started(kit: Kit) -> None:
    delivery = kit.delivery()
    assert delivery.remote_id == "remote-1"
    delivery.close(timeout_s=30)


def test_offering_does_not_wait_for_a_service_that_hangs(kit: Kit) -> None:
    kit.service.gate.clear()
    delivery = kit.delivery()
    kit.log(delivery, *range(100))  # returns although nothing is taken
    assert kit.service.told == []
    kit.service.gate.set()
    assert kit.finish(delivery)
    assert kit.service.told == list(range(100))


def test_a_service_that_comes_back_is_told_what_it_missed_in_order(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    delivery = kit.delivery()
    kit.log(delivery, 1)
    kit.service.tried.acquire()
    kit.service.away.set()
    kit.log(delivery, *range(2, 30))
    for _ in range(12):
        kit.service.tried.acquire()
    kit.service.away.clear()
    assert kit.finish(delivery)
    assert kit.service.told == list(range(1, 30))
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1


def test_one_refused_event_does_not_hold_up_the_others(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    kit.service.refuses = {2}
    delivery = kit.delivery()
    kit.log(delivery, 1, 2, 3, 4)
    assert kit.finish(delivery)
    assert kit.service.told == [1, 3, 4]
    assert "fake refuses the log of step 2 (ValueError: not that one)" in caplog.text


def test_more_events_than_memory_holds_are_read_from_the_spool(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MAX_WAITING", 5)
    kit.service.gate.clear()
    delivery = kit.delivery()
    kit.log(delivery, *range(50))
    kit.service.gate.set()
    assert kit.finish(delivery)
    assert kit.service.told == list(range(50))


def test_what_the_last_process_left_is_told_first(kit: Kit) -> None:
    kit.log(None, 1, 2, 3)
    delivery = kit.delivery()
    kit.log(delivery, 4)
    assert kit.finish(delivery)
    assert kit.service.told == [1, 2, 3, 4]


def test_what_was_told_is_not_told_again(kit: Kit) -> None:
    delivery = kit.delivery()
    kit.log(delivery, 1, 2)
    kit.finish(delivery)
    again = kit.delivery()
    kit.log(again, 3)
    kit.finish(again)
    assert kit.service.told == [1, 2, 3]


def test_steps_that_were_trained_again_are_not_told_from_before(kit: Kit) -> None:
    kit.log(None, 1, 2, 3)
    kit.spool.append("resume", step=1)
    delivery = kit.delivery()
    kit.log(delivery, 2)
    kit.finish(delivery)
    assert kit.service.told == [1, 2]


def test_a_service_that_stays_away_does_not_hold_up_the_end(kit: Kit) -> None:
    kit.service.away.set()
    delivery = kit.delivery()
    kit.log(delivery, 1, 2)
    assert not kit.finish(delivery, timeout_s=0.05)
    assert delivery.num_left == 3


def test_a_service_that_hangs_does_not_hold_up_the_end(kit: Kit) -> None:
    kit.service.gate.clear()
    delivery = kit.delivery()
    kit.log(delivery, 1)
    assert not kit.finish(delivery, timeout_s=0.05)
    kit.service.gate.set()


def test_a_failing_start_is_raised_with_its_cause(kit: Kit) -> None:
    class Wrong(Tracker):
        def start(self, run: Run) -> str | None:
            raise PermissionError("no key: set FAKE_KEY")

    with pytest.raises(TrackerStartError, match="PermissionError: no key: set FAKE_KEY") as caught:
        started(Delivery("wrong", Wrong(), kit.spool.path))
    assert isinstance(caught.value.__cause__, PermissionError)


def test_a_start_that_hangs_is_left_to_itself(kit: Kit) -> None:
    gate = threading.Event()

    class Hangs(Tracker):
        hint = "HANGS_URL"

        def start(self, run: Run) -> str | None:
            gate.wait()
            return None

    with pytest.raises(TrackerStartError, match=r"did not answer within 0\.01 s; check the network and HANGS_URL"):
        started(Delivery("hangs", Hangs(), kit.spool.path), timeout_s=0.01)
    gate.set()


def test_what_a_start_hid_is_put_back_when_it_is_left_to_itself(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hidden = threading.Event(), threading.Event()
    monkeypatch.setenv("HFTRAIN_HIDDEN", "1")

    class Hides(Tracker):
        def start(self, run: Run) -> str | None:
            os.environ.pop("HFTRAIN_HIDDEN")
            hidden.set()
            gate.wait()
            return None

    delivery = Delivery("hides", Hides(), kit.spool.path)
    delivery.launch(Run(run_id="r"))
    assert hidden.wait(10)
    with pytest.raises(TrackerStartError, match="did not answer"):
        delivery.wait_for_start(timeout_s=0.01)
    assert os.environ["HFTRAIN_HIDDEN"] == "1"
    gate.set()


def test_a_vendors_exit_is_a_failure_like_another(kit: Kit) -> None:
    class Exits(Service):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            if not self.told:
                self.told.append(-1)
                sys.exit(3)
            super().log(metrics, step)

    kit.service = Exits()
    delivery = kit.delivery()
    kit.log(delivery, 1)
    assert kit.finish(delivery)
    assert kit.service.told == [-1, 1]


def test_the_thread_sees_the_context_of_its_caller(kit: Kit) -> None:
    run_of_user = contextvars.ContextVar("run_of_user", default="none")
    seen: list[str] = []

    class Looks(Tracker):
        def start(self, run: Run) -> str | None:
            seen.append(run_of_user.get())
            return None

    run_of_user.set("theirs")
    delivery = started(Delivery("looks", Looks(), kit.spool.path))
    delivery.close(timeout_s=30)
    assert seen == ["theirs"]


def test_a_disk_that_refuses_the_spool_does_not_hold_up_what_is_in_memory(kit: Kit) -> None:
    delivery = kit.delivery()
    kit.spool.close()
    kit.log(delivery, 1, 2)
    assert kit.spool.error is not None
    assert kit.finish(delivery)
    assert kit.service.told == [1, 2]


def test_new_rows_do_not_cut_a_pause_short(kit: Kit) -> None:
    kit.service.away.set()
    delivery = Delivery("fake", kit.service, kit.spool.path, patience=Patience(first=3600))
    started(delivery)
    kit.log(delivery, 1)
    kit.service.tried.acquire()
    kit.log(delivery, *range(2, 100))
    assert not kit.service.tried.acquire(timeout=0.05)
    kit.service.away.clear()
    assert kit.finish(delivery)  # the end of the run does
    assert kit.service.told == list(range(1, 100))


def test_the_last_event_before_the_end_may_be_refused(kit: Kit) -> None:
    kit.service.refuses = {2}
    delivery = kit.delivery()
    kit.log(delivery, 1, 2)
    assert kit.finish(delivery)
    assert (kit.service.told, kit.service.status) == ([1], ("finished", None))
    assert delivery.num_refused == 1


def test_numbers_that_the_disk_refused_are_not_used_again(kit: Kit) -> None:
    delivery = kit.delivery()
    kit.spool.close()
    kit.log(delivery, 1, 2)
    assert kit.finish(delivery)
    kit.spool = Spool(kit.spool.folder)
    again = kit.delivery()
    kit.log(again, 3)
    assert kit.finish(again)
    assert kit.service.told == [1, 2, 3]


def test_a_spool_that_is_gone_does_not_end_the_thread(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_MAX_WAITING", 2)
    kit.service.gate.clear()
    delivery = kit.delivery()
    kit.log(delivery, 1)
    os.unlink(kit.spool.path)
    kit.log(delivery, *range(2, 9))
    kit.service.gate.set()
    assert kit.finish(delivery)
    assert kit.service.told[:2] == [1, 2]


def test_a_forked_process_writes_and_hands_over_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = kit.delivery()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    kit.log(delivery, 1)
    monkeypatch.undo()
    kit.log(delivery, 2)
    assert kit.finish(delivery)
    assert (kit.service.told, [event.step for event in read_events(kit.spool.path)]) == ([2], [2, 99])


def test_what_a_start_says_itself_does_not_put_a_tracker_behind(kit: Kit) -> None:
    kit.spool.append("start", step=0)
    os.unlink(kit.spool.path)  # nothing could be read there
    delivery = Delivery("fake", kit.service, kit.spool.path, patience=QUICK)
    delivery.launch(RUN, last_seq=kit.spool.last_seq, num_own=1)
    kit.log(delivery, 1)
    assert kit.finish(delivery)
    assert kit.service.told == [1]


def test_no_message_shows_a_secret(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    class Tells(Service):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            raise ConnectionError("401 for key planted-key")

    delivery = started(Delivery("tells", Tells(), kit.spool.path, patience=QUICK, secrets=("planted-key",)))
    kit.log(delivery, 1)
    assert not kit.finish(delivery, timeout_s=0.05)
    assert "401 for key ***" in caplog.text
    assert "planted-key" not in caplog.text


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.ENOSPC, "full"), True),
        (FileNotFoundError("gone"), False),
        (ValueError("no"), False),
        (type("CommError", (Exception,), {})(), True),
        (type("MaxRetryError", (Exception,), {})(), True),
    ],
)
def test_an_outage_is_told_from_a_refusal_by_its_error(error: Exception, is_one: bool) -> None:
    assert is_outage(error) is is_one


def test_an_error_that_came_from_an_outage_is_one() -> None:
    error = RuntimeError("it failed")
    error.__context__ = ConnectionRefusedError()
    assert is_outage(error)


def test_a_tracker_is_woken_only_for_what_a_method_of_its_own_takes(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    class Ends(Tracker):
        def start(self, run: Run) -> str | None:
            begun.wait()
            return None

        def finish(self, status: str, error: str | None) -> None:
            ended.set()

    spool = Spool(str(tmp_path))
    delivery = Delivery("ends", Ends(), spool.path)
    delivery.launch(RUN)
    delivery.offer(spool.append("log", step=1, data={"loss": 1.0}))
    assert delivery.num_left == 0
    delivery.offer(spool.append("finish", step=1, data={"status": "finished", "error": None}))
    assert delivery.num_left == 2
    begun.set()
    assert delivery.close(timeout_s=60)
    assert ended.is_set()


def test_a_tracker_that_takes_nothing_does_not_read_a_long_record_again(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.append("log", step=1, data={"loss": 1.0})
    delivery = Delivery("record", Tracker(), spool.path)
    delivery.launch(RUN, last_seq=spool.last_seq)
    assert delivery.num_left == 0
    assert delivery.close(timeout_s=60)
