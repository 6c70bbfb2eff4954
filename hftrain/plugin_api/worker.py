"""One thread for one tracker: nothing that a service does can stop the training, or make a step wait."""

from __future__ import annotations

import contextvars
import errno
import logging
import os
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice

from hftrain.plugin_api.spool import CURSOR, Event, SpoolReader, read_number
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.values import masked

logger = logging.getLogger(__name__)

START_S = 15.0
"""How long a service may take to begin; the thread of one that hangs longer is left to itself."""
LOAD_S = 60.0
"""How long the import of its libraries may take before that: a busy disk is no service that hangs."""
_MAX_WAITING = 1000
_TRIES = 5
"""After so many the next event is tried, to tell a service that is away from one event that it refuses."""
_TRIES_AWAY = 50
"""The same where the error says that the service is away: a file may be too large for the time that it is given."""
_MAX_AHEAD = 5
"""So many events after it are tried, for several in a row may be refused."""
_AWAY = re.compile(r"connect|time_?d?out|unreachable|network|maxretr|unavailable|commerror", re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_SHOWN_LENGTH = 1000
"""Characters of a service's error in a message; some answer with a page."""


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
    the next is left out, with a warning. The order is that of the events, with one exception: where an error does not
    look like an outage and yet was one, that ended just as the next event was tried, those two change places.

    Args:
        name: of the tracker, as the user wrote it.
        tracker: what is called.
        spool_path: the file of the run's events.
        patience: how long to pause after a failure.
        secrets: texts that no message shows.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        spool_path: str,
        *,
        patience: Patience | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.cursor = Cursor(cursor_path(os.path.dirname(spool_path), name))
        self.failure: BaseException | None = None
        """What the service raised last, as long as it has not taken the event since."""
        self.remote_id: str | None = None
        self._tracker = tracker
        self._takes_types = tracker.takes()
        self._folder = os.path.dirname(spool_path)
        self._reader = SpoolReader(spool_path)
        self._spool_path = spool_path
        self._patience = patience or Patience()
        self._secrets = secrets
        self._process = os.getpid()
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
        self._environment: dict[str, str] = {}
        self._loaded = threading.Event()
        self._loaded_at = 0.0
        self._started = threading.Event()
        self._start_error: BaseException | None = None
        self._thread: threading.Thread | None = None

    # ---- called by the run; only wait_for_start and close wait, as long as they say -------------

    def launch(self, run: Run, *, last_seq: int = 0, num_own: int = 0) -> None:
        """Begin to start the tracker, in a copy of this thread's context.

        Args:
            run: what it is told.
            last_seq: the last event that the spool holds; those that were not delivered are, first of all.
            num_own: so many at its end say what ``run`` says: a tracker that was told all before them needs none.
        """
        self._newest = last_seq
        self._is_behind = bool(self._takes_types) and self.cursor.seq < last_seq - num_own
        if not self._is_behind:
            self.cursor.seq = last_seq
        self._environment = dict(os.environ)
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
        if not self._loaded.wait(LOAD_S):
            self._is_left = True
            raise TrackerStartError(f"its libraries were not imported within {LOAD_S:g} s")
        if not self._started.wait(max(0.0, self._loaded_at + timeout_s - time.monotonic())):
            self._is_left = True
            for variable, value in self._environment.items():  # it may have hidden one, and never come to put it back
                os.environ.setdefault(variable, value)
            to_set = self._tracker.hint or "the variables that hold its address and its key"
            raise TrackerStartError(f"it did not answer within {timeout_s:g} s; check the network and {to_set}")
        if self._start_error is not None:
            raise TrackerStartError(self.said(self._start_error)) from self._start_error

    def leave(self) -> None:
        """Tell it nothing more."""
        with self._condition:
            self._is_left = True
            self._deadline = time.monotonic()
            self._condition.notify()

    def offer(self, event: Event) -> None:
        """Hand over an event. Never waits. A process that is forked from this one hands over nothing."""
        if os.getpid() != self._process or event.type not in self._takes_types:
            return
        with self._condition:
            self._newest = event.seq
            self._is_behind = self._is_behind or len(self._waiting) >= _MAX_WAITING
            if not self._is_behind:
                self._waiting.append(event)
            self._condition.notify()

    def close(self, *, timeout_s: float) -> bool:
        """Wait until everything is delivered, at most so long; return whether it was."""
        if os.getpid() != self._process:
            return True
        with self._condition:
            self._deadline = time.monotonic() + timeout_s
            self._condition.notify()
        assert self._thread is not None  # it began
        if self._thread is threading.current_thread():  # the garbage collector ends a forgotten Trainer in any thread
            return True  # it tells the rest as soon as it may go on
        self._thread.join(timeout_s)
        self._is_left = True
        return not self._thread.is_alive() and self.num_left == 0

    @property
    def num_left(self) -> int:
        """How many events the service has not been told."""
        return max(0, self._newest - self.cursor.seq)

    def said(self, error: BaseException) -> str:
        """Return what an error says, as far as it may be shown."""
        text = str(masked(text_of(error), secrets=self._secrets))
        return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _work(self, run: Run) -> None:
        try:
            try:
                self._tracker.load()
            finally:
                self._loaded_at = time.monotonic()
                self._loaded.set()
            self.remote_id = self._tracker.start(run)
        except BaseException as error:  # a vendor's sys.exit() included; `begin` raises it
            self._start_error = error
            return
        finally:
            self._started.set()
        try:
            self._deliver_all()
        except Exception as error:  # this thread is ours: its end must not be silent
            self._note_failure(error)
        finally:
            self.cursor.close()

    def _deliver_all(self) -> None:
        while not self._is_left:
            event = self._next()
            if event is None:
                return
            if event.seq <= self.cursor.seq:  # read from the file just before it was handed over
                continue
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
        found = self._found(after=self.cursor.seq)
        with self._condition:
            self._waiting = deque(found)
            if found:
                self._is_behind = found[-1].seq < self._newest
                return
            if self._newest != newest:
                return
            self._is_behind = False
        self.cursor.move(newest)  # a disk refused to keep the rest, or its steps were trained again

    def _found(self, *, after: int) -> list[Event]:
        try:
            return self._reader.read(_MAX_WAITING, after=after)
        except OSError as error:
            logger.debug("%s cannot be read: %s", self._spool_path, error)
            return []

    def _deliver(self, event: Event) -> bool:
        """Have the service take an event; return False if the time is over before it did."""
        pause, tries = self._patience.first, 0
        while not self._takes(event):
            tries += 1
            bound = _TRIES_AWAY if self.failure is not None and is_outage(self.failure) else _TRIES
            if tries % bound == 0 and self._is_refused(event):
                return True
            if not self._pause(pause):
                return False
            pause = min(2 * pause, self._patience.most)
        self._note_recovery()
        return True

    def _takes(self, event: Event) -> bool:
        try:
            self._tracker.deliver(event, folder=self._folder)
        except BaseException as error:  # a vendor's sys.exit() included: this thread must go on
            self._note_failure(error)
            return False
        return True

    def _is_refused(self, event: Event) -> bool:
        """Whether the service takes a later event, and then still not this one, however often it is asked."""
        if not any(self._takes_ahead(following) for following in self._following(event)):
            return False
        for _ in range(_TRIES):
            if self._takes(event):
                return True
            if not self._pause(self._patience.first):
                return False
        self.num_refused += 1
        logger.warning(
            "%s refuses the %s of step %d (%s), and takes what comes after it: it is left out.",
            self.name,
            event.type,
            event.step,
            "nothing was raised" if self.failure is None else self.said(self.failure),
        )
        return True

    def _following(self, event: Event) -> list[Event]:
        if self._is_behind and len(self._waiting) < _MAX_AHEAD:
            last = self._waiting[-1] if self._waiting else event  # nobody else puts any there while this is behind
            self._waiting.extend(self._found(after=last.seq))
        with self._condition:
            return list(islice(self._waiting, _MAX_AHEAD))

    def _takes_ahead(self, event: Event) -> bool:
        if event.seq not in self._ahead:
            is_over = self._deadline is not None
            if (event.type == "finish" and not is_over) or not self._takes(event):
                return False
            self._ahead.add(event.seq)
        return True

    def _pause(self, seconds: float) -> bool:
        """Wait before the next try; return False if there is no time for one. The end of the run cuts it short."""
        with self._condition:
            was_ending = self._deadline is not None
            until = time.monotonic() + (min(seconds, 1.0) if was_ending else seconds)
            while not self._is_left:
                now = time.monotonic()
                if self._deadline is not None:
                    if now >= self._deadline:
                        return False
                    if not was_ending:
                        return True
                    until = min(until, self._deadline)
                if now >= until:
                    return True
                self._condition.wait(until - now)  # each new event wakes it: that is no reason to try again
            return False

    def _note_failure(self, error: BaseException) -> None:
        self.failure = error
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s cannot be told (%s). Training goes on; what it misses is kept in %s, and told when it answers.",
                self.name,
                self.said(error),
                self._spool_path,
            )

    def _note_recovery(self) -> None:
        if self.failure is not None:
            self.failure = None
            logger.info("%s answers again.", self.name)


class Cursor:
    """The number of the last event that a tracker was told, kept beside the spool across the process's end.

    It is written over in place, in one call: a kill leaves the old number or the new one.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        self.seq = read_number(path)

    def move(self, seq: int) -> None:
        """Note that everything up to ``seq`` was told. A disk that refuses costs repetitions after a kill, no more."""
        self.seq = max(self.seq, seq)
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, b"%-20d\n" % self.seq)
        except OSError as error:
            logger.debug("%s could not be written: %s", self._path, error)

    def close(self) -> None:
        """Close the file; another `move` opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def cursor_path(folder: str, name: str) -> str:
    """Return the file of a tracker's cursor; ``dist:name`` is no file name everywhere."""
    return os.path.join(folder, f"{name.replace(':', '-')}{CURSOR}")


def text_of(error: BaseException) -> str:
    """Return what an error says, with its class."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def is_outage(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that nobody takes anything now, rather than this one event."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return False
        if isinstance(found, (ConnectionError, TimeoutError)) or getattr(found, "errno", None) in _FULL:
            return True
        if any(_AWAY.search(kind.__name__) for kind in type(found).__mro__):
            return True
        found = found.__cause__ or found.__context__
    return False
