"""A run's own record of what it reported: one line of JSON an event, written before any tracker hears of it.

``<output_dir>/runs/<run_id>/events.jsonl`` survives the process: each line is handed to the system when it is made.
A line that was cut off by a kill is dropped. After ``resume`` at step k, events above k from before are void: those
steps were trained again.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hftrain.plugin_api.locks import try_lock, unlock

EVENTS = "events.jsonl"
VERSION = 1
TIMING = "timing"
"""The key of a row under which stand the seconds since the row before, by what they were spent on; no metric."""
Type = Literal["start", "log", "media", "artifact", "checkpoint", "warning", "resume", "finish"]
_TYPES = get_args(Type)
_STAYING = ("start", "warning")
_TAIL_BYTES = 1 << 16
CURSOR = ".cursor"
"""Ends the name of the file, beside the spool, that holds the number of the last event that a tracker was told."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line.

    Attributes:
        seq: counts the run's events from 1, across its processes' lives.
        time: unix seconds.
        step: optimizer steps done.
        data: plain values; non-finite numbers are the strings "nan", "inf" and "-inf".
    """

    seq: int
    time: float
    type: Type
    step: int
    epoch: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """Return the line, with its end."""
        row: dict[str, Any] = {"v": VERSION, "seq": self.seq, "time": self.time, "type": self.type}
        row |= {"step": self.step, "epoch": self.epoch, "data": self.data}
        return json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"


class Spool:
    """Appends events; safe in several threads of one process. One process writes a run's spool.

    A disk that refuses is noted in `error`, from the beginning on, and is no reason to stop a run. A process that is
    forked from this one writes nothing: its numbers would be taken twice. The file is locked until `close`.

    Args:
        folder: of the run, on a local disk; made if it is not there.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = os.path.join(folder, EVENTS)
        self.last_seq = 0
        self.is_alone = True
        """Whether nobody else, such as a replay, had the file locked when this began."""
        self.error: OSError | None = None
        """Why the last event could not be written; None if it was."""
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._file = -1
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self.is_alone = try_lock(self._file)
            self.last_seq = max(self._mend(), _highest_cursor(folder))
        except OSError as error:
            self.error = error

    def append(
        self, type_: Type, *, step: int, epoch: float | None = None, data: Mapping[str, Any] | None = None
    ) -> Event:
        """Write an event and return it; a disk that refuses is noted in `error`."""
        now = time.time()
        if not self.is_ours:  # its lock may have been held when the process was forked, and stays so there
            return Event(seq=self.last_seq, time=now, type=type_, step=step, epoch=epoch, data=dict(data or {}))
        with self._lock:
            event = Event(seq=self.last_seq + 1, time=now, type=type_, step=step, epoch=epoch, data=dict(data or {}))
            line = event.to_line()
            self.last_seq += 1
            try:
                self._write(line)
                self.error = None
            except OSError as error:
                self.error = error
            return event

    @property
    def is_ours(self) -> bool:
        """Whether this process made it, rather than one that it was forked from."""
        return os.getpid() == self._process

    @property
    def is_busy(self) -> bool:
        """Whether an event is being written; an append would wait for that."""
        return self._lock.locked()

    def sync(self) -> None:
        """Have the disk hold what was written, against a loss of power; one that refuses is noted in `error`."""
        try:
            if self._file >= 0:
                os.fsync(self._file)
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the file."""
        if not self.is_ours:
            return
        with self._lock:
            if self._file >= 0:
                unlock(self._file)
                os.close(self._file)
                self._file = -1

    def _write(self, line: bytes) -> None:
        if self._file < 0:
            raise self.error or OSError(errno.EBADF, "it is closed")
        end = os.lseek(self._file, 0, os.SEEK_END)
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, end)  # a half line would make the next one unreadable
            raise

    def _mend(self) -> int:
        """Cut off what a kill left of a last line; return the last event's number."""
        last, whole = _end_of(self.path)
        if os.fstat(self._file).st_size > whole:
            os.ftruncate(self._file, whole)
        return last


class SpoolReader:
    """Reads a run's valid events in pieces, each from where the last one ended: a long file is read once.

    Args:
        path: of the spool. A resume that is written later than the first piece is read is for another reader.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._place = 0
        self._resumes: list[Event] | None = None

    def read(self, count: int, *, after: int = 0) -> list[Event]:
        """Return the next events whose number is above ``after``, at most ``count``; none if there are no more.

        Raises:
            OSError: it cannot be read.
        """
        if self._resumes is None:
            self._resumes = _resumes_in(self._path)
        found: list[Event] = []
        for event, end in _lines(self._path, begin=self._place):
            self._place = end
            if event is None or event.seq <= after or self._is_void(event):
                continue
            found.append(event)
            if len(found) == count:
                break
        return found

    def _is_void(self, event: Event) -> bool:
        if event.type in _STAYING:
            return False
        later = (resume for resume in self._resumes or () if resume.seq > event.seq)
        return any(not _stays(event, resume.step) for resume in later)


def read_events(path: str, *, after: int = 0) -> Iterator[Event]:
    """Yield the events whose number is above ``after``, in order; lines that are no events are passed over."""
    for event, _ in _lines(path):
        if event is not None and event.seq > after:
            yield event


class SpoolTail:
    """Reads a run's events while they are written: each line is read once.

    Args:
        path: of the spool.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.place = 0
        """Where the next event begins, in bytes; a file that is shorter is another one."""

    def read(self) -> Iterator[Event]:
        """Yield the events that are new since the last call, void ones included.

        Raises:
            OSError: it cannot be read.
        """
        for event, end in _lines(self._path, begin=self.place):
            self.place = end
            if event is not None:
                yield event


def valid_events(events: Iterable[Event]) -> list[Event]:
    """Return the events without those that a resume made void: of steps trained again, and of the end before it."""
    kept: list[Event] = []
    for event in events:
        if event.type == "resume":
            kept = [one for one in kept if one.type in _STAYING or _stays(one, event.step)]
        kept.append(event)
    return kept


def _stays(event: Event, resumed_step: int) -> bool:
    return event.step <= resumed_step and event.type != "finish"


def read_number(path: str) -> int:
    """Return what a cursor's file holds; 0 if that is no number."""
    try:
        with open(path, encoding="ascii") as file:
            return max(0, int(file.read(32)))
    except (OSError, ValueError):
        return 0


def _highest_cursor(folder: str) -> int:
    """What was told has a number that is never used again, even where the disk refused to keep it."""
    names = (name for name in os.listdir(folder) if name.endswith(CURSOR))
    return max((read_number(os.path.join(folder, name)) for name in names), default=0)


def _end_of(path: str) -> tuple[int, int]:
    """Return the last event's number, and the place where the last whole line ends; reads the end of the file only."""
    size, length = os.path.getsize(path), _TAIL_BYTES
    with open(path, "rb") as file:
        while True:
            begin = max(0, size - length)
            file.seek(begin)
            pieces = file.read(size - begin).split(b"\n")
            whole = size - len(pieces[-1]) if len(pieces) > 1 else 0
            lines = pieces[:-1] if begin == 0 else pieces[1:-1]
            events = (_event(line) for line in reversed(lines))
            last = next((event.seq for event in events if event is not None), None)
            if last is not None or begin == 0:
                return last or 0, whole
            length *= 8


def _resumes_in(path: str) -> list[Event]:
    mark = b'"type":"resume"'  # cheaper than to take every line apart
    with open(path, "rb") as file:
        events = [_event(line) for line in file if mark in line]
    return [event for event in events if event is not None and event.type == "resume"]


def _lines(path: str, *, begin: int = 0) -> Iterator[tuple[Event | None, int]]:
    """Yield each whole line from a place on as an event, None if it is none, with the place where it ends."""
    end = begin
    with open(path, "rb") as file:
        file.seek(begin)
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield _event(line), end


def _event(line: bytes) -> Event | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("v") != VERSION or row.get("type") not in _TYPES:
        return None
    if not isinstance(row.get("seq"), int) or not isinstance(row.get("step"), int):
        return None
    data = row.get("data")
    return Event(
        seq=row["seq"],
        time=row.get("time", 0.0),
        type=row["type"],
        step=row["step"],
        epoch=row.get("epoch"),
        data=data if isinstance(data, dict) else {},
    )
