"""Notes that the processes of a run leave for each other: no collective, and safe in any thread."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import torch.distributed as dist


class Notes(Protocol):
    """Short texts by name, seen by all processes of a run."""

    def put(self, name: str, text: str) -> None:
        """Leave a note."""

    def read(self, name: str) -> str | None:
        """Return a note, or None as long as nobody left it. Does not wait."""

    def remove(self, name: str) -> None:
        """Take a note away, if it is there."""


class OwnNotes:
    """The notes of a run of one process."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = threading.Lock()

    def put(self, name: str, text: str) -> None:
        """Leave a note."""
        with self._lock:
            self._texts[name] = text

    def read(self, name: str) -> str | None:
        """Return a note, or None."""
        with self._lock:
            return self._texts.get(name)

    def remove(self, name: str) -> None:
        """Take a note away."""
        with self._lock:
            self._texts.pop(name, None)


class StoreNotes:
    """Notes in the store of the process group, which every launcher has.

    A store's connection serves one call at a time, and one that waits holds it: so nothing here waits.
    """

    def __init__(self, store: Any, prefix: str = "") -> None:
        self._store = dist.distributed_c10d.PrefixStore(f"hftrain/{prefix}", store)

    def put(self, name: str, text: str) -> None:
        """Leave a note."""
        self._store.set(name, text)

    def read(self, name: str) -> str | None:
        """Return a note, or None."""
        if not self._store.check([name]):
            return None
        found: bytes = self._store.get(name)
        return found.decode()

    def remove(self, name: str) -> None:
        """Take a note away."""
        self._store.delete_key(name)


def notes_of_run(world_size: int, prefix: str = "") -> Notes | None:
    """Return the notes of this process's run; None for several processes without a process group.

    ``prefix`` keeps their names apart from those of others.
    """
    if world_size == 1:
        return OwnNotes()
    if not dist.is_available() or not dist.is_initialized():
        return None
    return StoreNotes(dist.distributed_c10d._get_default_store(), prefix)
