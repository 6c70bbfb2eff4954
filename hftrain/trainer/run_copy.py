"""A run's own folder, copied to where its checkpoints are, when that is another filesystem."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

from hftrain.checkpoint.storage import Repeatable, Storage, is_url, join, storage_for, walk
from hftrain.plugin_api.runs import RUN_FILE, RUNS
from hftrain.plugin_api.spool import CURSOR, EVENTS

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


class RunCopy:
    """Copies what changed in a run's folder, in a thread of its own: nobody waits for it before `close`.

    Args:
        folder: of the run, on a local disk.
        output_dir: the URL, under which it is copied to ``runs/<run_id>``.
    """

    def __init__(self, folder: str, output_dir: str) -> None:
        self._folder = folder
        self._target = join(output_dir, RUNS, os.path.basename(folder))
        self._storage = storage_for(output_dir)
        self._copied: dict[str, tuple[int, int]] = {}
        self._is_wanted, self._is_over = threading.Event(), False
        self._has_warned = False
        self._thread = threading.Thread(target=self._work, name="hftrain-run-copy", daemon=True)

    def fetch(self) -> None:
        """Bring the run's record here, if what is there goes further: it went on on another machine.

        Its media and artifacts stay there: the first step does not wait for them.
        """
        there = {path: entry.num_bytes for path, entry in walk(self._storage, self._target)}
        here = os.path.join(self._folder, EVENTS)
        if there.get(EVENTS, 0) <= (os.path.getsize(here) if os.path.exists(here) else 0):
            return
        for path in there:
            if path not in (EVENTS, RUN_FILE) and not (path.endswith(CURSOR) and os.path.basename(path) == path):
                continue
            place = os.path.join(self._folder, path)
            os.makedirs(self._folder, exist_ok=True)
            with self._storage.read(join(self._target, path)) as source, open(f"{place}.tmp", "wb") as file:
                while chunk := source.read(_CHUNK_BYTES):
                    file.write(chunk)
            os.replace(f"{place}.tmp", place)  # what is here stays whole if the store stops answering

    def start(self) -> None:
        """Begin to wait for `copy_soon`."""
        self._thread.start()

    def copy_soon(self) -> None:
        """Have it copied. Never waits, never raises."""
        self._is_wanted.set()

    def close(self, *, timeout_s: float) -> None:
        """Copy the rest, and wait for it at most so long."""
        self._is_over = True
        self._is_wanted.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning("%s was not copied to %s within %g s.", self._folder, self._target, timeout_s)

    def _work(self) -> None:
        while True:
            self._is_wanted.wait()
            self._is_wanted.clear()
            is_last = self._is_over
            self._copy()
            if is_last:
                return

    def _copy(self) -> None:
        try:
            for path, place in _files(self._folder):
                info = os.stat(place)
                now = (info.st_size, info.st_mtime_ns)
                if self._copied.get(path) != now:
                    _write(self._storage, join(self._target, path), place)
                    self._copied[path] = now
        except Exception as error:  # whatever a filesystem's client does: it is tried again at the next commit
            if not self._has_warned:
                self._has_warned = True
                logger.warning("%s cannot be copied to %s (%s). Training goes on.", self._folder, self._target, error)


def copy_of_run(folder: str, output_dir: str) -> RunCopy | None:
    """Bring a run's folder up to date, and return what copies it from now on; None on a local disk.

    A store that does not answer now is a warning: the run begins with what is here.
    """
    if not is_url(output_dir):
        return None
    copy = RunCopy(folder, output_dir)
    try:
        copy.fetch()
    except Exception as error:  # whatever a filesystem's client does
        logger.warning("The record of the run was not brought from %s (%s).", output_dir, error)
    copy.start()
    return copy


def close_within(copy: RunCopy | None, timeout_s: float) -> None:
    """Close it, if there is one; a run that waits for nothing still gives it a second."""
    if copy is not None:
        copy.close(timeout_s=max(timeout_s, 1.0))


def _files(folder: str) -> Iterator[tuple[str, str]]:
    for below, _, names in os.walk(folder):
        for name in sorted(names):
            if not name.endswith(".tmp"):
                place = os.path.join(below, name)
                yield os.path.relpath(place, folder).replace(os.sep, "/"), place


def _write(storage: Storage, target: str, place: str) -> None:
    length = os.path.getsize(place)  # of now: a line that is added meanwhile is for the next time
    storage.write(target, Repeatable(lambda: _pieces(place, length)))


def _pieces(place: str, length: int) -> Iterator[bytes]:
    """Yield the file's first bytes in pieces: a model that is kept with the run does not fit into memory twice."""
    with open(place, "rb") as file:
        while chunk := file.read(min(_CHUNK_BYTES, length)):
            length -= len(chunk)
            yield chunk
