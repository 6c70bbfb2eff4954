"""One thread for one tracker: nothing that a service does can stop the training, or make a step wait."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice

from hftrain.plugin_api.spool import Event, read_events, valid_events
from hftrain.plugin_api.tracker import Run, Tracker

logger = logging.getLogger(__name__)

START_S = 15.0
"""How long a service may take to begin; the thread of one that hangs longer is left to itself."""
_MAX_WAITING = 1000
_TRIES = 5
"""After so many the next event is tried, to tell a service that is away from one event that it refuses."""


class TrackerStartError(Exception):
    """A tracker did not start; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds from one try to the next: ``first``, then twice as long each time, up to ``most``."""

    first: float = 0.5
    most: float = 60.0


class Delivery:
    """Hands a run's events to one tracker, in order, from a thread of its own.

    Events wait in memory, a bounded number of them; beyond that they are read from the spool when their turn comes.
    One that fails is tried again with growing pauses until the service takes it; one that it refuses while it takes
    the next is left out, with a warning.

    Args:
        name: of the tracker, as the user wrote it.
        tracker: what is called.
        spool_path: the file of the run's events.
        patience: how long to pause after a failure.
    """

    def __init__(self, name: str, tracker: Tracker, spool_path: str, *, patience: Patience | None = None) -> None:
        self.name = name
        self.cursor = Cursor(cursor_path(os.path.dirname(spool_path), name))
        self.failure: BaseException | None = None
        """What the service raised last, as long as it has not taken the event since."""
        self.remote_id: str | None = None
        self._tracker = tracker
        self._spool_path = spool_path
        self._patience = patience or Patience()
        self._condition = threading.Condition()
        self._waiting: deque[Event] = deque()
        self._newest = 0
        self._is_behind = False
        self._deadline: float | None = None
        self._is_left = False
        self._ahead: set[int] = set()
        """Taken before their turn, while one before them was refused."""
        self.num_refused = 0
        """Events that the service did not take while it took the next ones."""
        self._has_warned = False
        self._started = threading.Event()
        self._start_error: BaseException | None = None
        self._thread: threading.Thread | None = None

    # ---- called by the run; only wait_for_start and close wait, as long as they say -------------

    def launch(self, run: Run, *, last_seq: int = 0) -> None:
        """Begin to start the tracker, in a copy of this thread's context.

        Args:
            run: what it is told.
            last_seq: the last event that the spool holds; those that were not delivered are, first of all.
        """
        self._newest = last_seq
        self._is_behind = self.cursor.seq < last_seq
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=lambda: context.run(self._work, run), name=f"hftrain-{self.name}", daemon=True
        )
        self._thread.start()

    def wait_for_start(self, *, timeout_s: float = START_S) -> None:
        """Wait until the tracker has started.

        Raises:
            TrackerStartError: it raised, or takes longer; it is left to itself then.
        """
        if not self._started.wait(timeout_s):
            self._is_left = True
            raise TrackerStartError(f"it did not answer within {timeout_s:g} s")
        if self._start_error is not None:
            raise TrackerStartError(text_of(self._start_error)) from self._start_error

    def leave(self) -> None:
        """Tell it nothing more."""
        with self._condition:
            self._is_left = True
            self._deadline = time.monotonic()
            self._condition.notify()

    def offer(self, event: Event) -> None:
        """Hand over an event. Never waits."""
        with self._condition:
            self._newest = event.seq
            if not self._is_behind and len(self._waiting) >= _MAX_WAITING:
                self._waiting.clear()
                self._is_behind = True
            if not self._is_behind:
                self._waiting.append(event)
            self._condition.notify()

    def close(self, *, timeout_s: float) -> bool:
        """Wait until everything is delivered, at most so long; return whether it was."""
        with self._condition:
            self._deadline = time.monotonic() + timeout_s
            self._condition.notify()
        assert self._thread is not None  # it began
        self._thread.join(timeout_s)
        self._is_left = True
        return not self._thread.is_alive() and self.num_left == 0

    @property
    def num_left(self) -> int:
        """How many events the service has not been told."""
        return max(0, self._newest - self.cursor.seq)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _work(self, run: Run) -> None:
        try:
            self.remote_id = self._tracker.start(run)
        except BaseException as error:  # a vendor's sys.exit() included; `begin` raises it
            self._start_error = error
            return
        finally:
            self._started.set()
        while not self._is_left:
            event = self._next()
            if event is None:
                return
            if event.seq not in self._ahead and not self._deliver(event):
                return
            self._ahead.discard(event.seq)
            self.cursor.move(event.seq)

    def _next(self) -> Event | None:
        """Wait for the next event and return it; None when there will be none."""
        while not self._is_left:
            if self._is_behind and not self._waiting:
                self._read_spool()
            with self._condition:
                if self._waiting:
                    return self._waiting.popleft()
                if self._is_behind:
                    continue
                if self._deadline is not None:
                    return None
                self._condition.wait()
        return None

    def _read_spool(self) -> None:
        """Take the next events from the file; be no longer behind when they reach up to the newest one."""
        newest = self._newest
        events = valid_events(read_events(self._spool_path))
        found = list(islice((event for event in events if event.seq > self.cursor.seq), _MAX_WAITING))
        with self._condition:
            self._waiting = deque(found)
            if found:
                self._is_behind = found[-1].seq < self._newest
                return
            if self._newest != newest:
                return
            self._is_behind = False
        self.cursor.move(newest)  # a disk refused to keep the rest, or its steps were trained again

    def _deliver(self, event: Event) -> bool:
        """Have the service take an event; return False if the time is over before it did."""
        pause, tries = self._patience.first, 0
        while not self._takes(event):
            tries += 1
            if tries % _TRIES == 0 and self._is_refused(event):
                return True
            if not self._pause(pause):
                return False
            pause = min(2 * pause, self._patience.most)
        self._note_recovery()
        return True

    def _takes(self, event: Event) -> bool:
        try:
            self._tracker.deliver(event, folder=os.path.dirname(self._spool_path))
        except BaseException as error:  # a vendor's sys.exit() included: this thread must go on
            self._note_failure(error)
            return False
        return True

    def _is_refused(self, event: Event) -> bool:
        """Whether the service takes the next event, and then still not this one."""
        with self._condition:
            following = self._waiting[0] if self._waiting else None
        if following is None or following.type == "finish" or not self._takes(following):
            return False
        self._ahead.add(following.seq)
        if self._takes(event):
            return True
        self.num_refused += 1
        logger.warning(
            "%s refuses the %s of step %d (%s), and takes what comes after it: it is left out.",
            self.name,
            event.type,
            event.step,
            "nothing was raised" if self.failure is None else text_of(self.failure),
        )
        return True

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try; return False if there is no time for one."""
        with self._condition:
            if self._deadline is None:
                self._condition.wait(seconds)
                return not self._is_left
            left = self._deadline - time.monotonic()
        if left <= 0 or self._is_left:
            return False
        time.sleep(min(seconds, left, 1.0))
        return True

    def _note_failure(self, error: BaseException) -> None:
        self.failure = error
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s cannot be told (%s). Training goes on; what it misses is kept in %s, and told when it answers.",
                self.name,
                text_of(error),
                self._spool_path,
            )

    def _note_recovery(self) -> None:
        if self.failure is not None:
            self.failure = None
            logger.info("%s answers again.", self.name)


class Cursor:
    """The number of the last event that a tracker was told, kept beside the spool across the process's end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.seq = self._read()

    def move(self, seq: int) -> None:
        """Note that everything up to ``seq`` was told. A disk that refuses costs repetitions after a kill, no more."""
        self.seq = max(self.seq, seq)
        try:
            with open(f"{self._path}.tmp", "w", encoding="ascii") as file:
                file.write(f"{self.seq}\n")
            os.replace(f"{self._path}.tmp", self._path)
        except OSError as error:
            logger.debug("%s could not be written: %s", self._path, error)

    def _read(self) -> int:
        try:
            with open(self._path, encoding="ascii") as file:
                return max(0, int(file.read(32)))
        except (OSError, ValueError):
            return 0


def cursor_path(folder: str, name: str) -> str:
    """Return the file of a tracker's cursor; ``dist:name`` is no file name everywhere."""
    return os.path.join(folder, f"{name.replace(':', '-')}.cursor")


def text_of(error: BaseException) -> str:
    """Return what an error says, with its class."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
