"""A filesystem that fails: ``failing:///some/folder`` is a folder of this disk, kept as an object store would.

An object is there, whole, when its upload is completed, unless something goes wrong, as `Faults` says; there are no
empty folders and no renames. Importing this module makes the protocol known to fsspec.
"""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem

UPLOAD = ".upload"
"""What an object is called on the disk before it is seen."""


@dataclass(kw_only=True)
class Faults:
    """What goes wrong. Shares are of 1, drawn for each request from ``seed``.

    Attributes:
        drop: of the uploads that succeed and store nothing.
        truncate: of the uploads that succeed and store the first half.
        refuse: of all requests, which raise; an upload does so before or after it stored something.
        lag_s: how long what was uploaded is not seen.
        delay_s: how long an upload takes.
        only: faults meet files whose name ends with this.
        at_most: so many faults, then all goes well.
        error: what a refusal raises.
    """

    drop: float = 0.0
    truncate: float = 0.0
    refuse: float = 0.0
    lag_s: float = 0.0
    delay_s: float = 0.0
    seed: int = 0
    only: str = ""
    at_most: int | None = None
    error: type[OSError] = ConnectionResetError
    num_faults: int = 0
    uploads: list[str] = field(default_factory=list)
    """The paths of all uploads that were completed, in order."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def strike(self, share: float, path: str) -> bool:
        """Whether this time something goes wrong."""
        with self._lock:
            is_due = path.endswith(self.only) and (self.at_most is None or self.num_faults < self.at_most)
            is_struck = is_due and self._random.random() < share
            self.num_faults += is_struck
        return is_struck

    def refusal(self, path: str) -> OSError:
        return self.error(errno.ECONNRESET, "the store hung up", path)


class FailingFileSystem(AbstractFileSystem):
    """See the module. One for a process; a test sets ``faults``, a started process takes them from FAILING_STORE."""

    protocol = "failing"
    cachable = False
    faults: ClassVar[Faults] = Faults(**json.loads(os.environ.get("FAILING_STORE", "{}")))
    _late: ClassVar[dict[str, tuple[float, bytes]]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("failing://").rstrip("/") or "/"

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._ask(path)
        if os.path.isfile(path):
            return [self.info(path)]
        found = []
        for entry in os.scandir(path):
            with suppress(FileNotFoundError):  # another process removed it just now
                found += [] if entry.name.endswith(UPLOAD) else [self.info(entry.path)]
        return found if detail else [it["name"] for it in found]

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        size, is_file = os.stat(path).st_size, os.path.isfile(path)
        return {"name": path, "size": size if is_file else 0, "type": "file" if is_file else "directory"}

    def rm_file(self, path: str) -> None:
        path = self._ask(path)
        os.unlink(path)
        with suppress(OSError):
            os.removedirs(os.path.dirname(path))

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        path = self._ask(path)
        if os.path.isfile(path):
            self.rm_file(path)
        else:
            shutil.rmtree(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders."""

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        path = self._ask(path)
        return _Upload(path, self.faults) if "w" in mode else _Download(path, self.faults)

    def _ask(self, path: str) -> str:
        """Make one request: it may be refused. What was late and is due is there from now on."""
        path = self._strip_protocol(path)
        for name, (due, data) in list(self._late.items()):
            if time.monotonic() >= due and self._late.pop(name, None):
                store(name, data)
        if self.faults.strike(self.faults.refuse, path):
            raise self.faults.refusal(path)
        return path


class _Download(io.FileIO):
    def __init__(self, path: str, faults: Faults) -> None:
        super().__init__(path, "rb")
        self.path, self.faults = path, faults

    def read(self, size: int | None = -1) -> Any:
        if self.faults.strike(self.faults.refuse, self.path):
            raise self.faults.refusal(self.path)
        return super().read(-1 if size is None else size)


class _Upload(io.BytesIO):
    """Bytes on their way; nothing is stored before they are all there."""

    def __init__(self, path: str, faults: Faults) -> None:
        super().__init__()
        self.path, self.faults, self.is_wanted = path, faults, True

    def discard(self) -> None:
        self.is_wanted = False

    def close(self) -> None:
        if not self.closed and self.is_wanted:
            self.is_wanted = False
            self._complete(self.getvalue())
        super().close()

    def _complete(self, data: bytes) -> None:
        faults, path = self.faults, self.path
        time.sleep(faults.delay_s)
        is_refused = faults.strike(faults.refuse, path)
        if is_refused and faults.num_faults % 2:
            raise faults.refusal(path)
        faults.uploads.append(path)
        if faults.strike(faults.truncate, path):
            data = data[: len(data) // 2]
        if faults.strike(faults.drop, path):
            pass
        elif faults.lag_s:
            FailingFileSystem._late[path] = (time.monotonic() + faults.lag_s, data)
        else:
            store(path, data)
        if is_refused:
            raise faults.refusal(path)


def store(path: str, data: bytes) -> None:
    """Put an object where it is seen, at once and whole."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + UPLOAD, "wb") as file:
        file.write(data)
    os.replace(path + UPLOAD, path)


fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
