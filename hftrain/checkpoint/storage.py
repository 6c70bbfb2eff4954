"""Where checkpoints lie: four verbs over a local disk or any fsspec URL.

Paths are strings with forward slashes (``Path`` would collapse ``s3://`` to ``s3:/``). Nothing here knows
what a checkpoint is, and nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from hftrain.checkpoint.disk import DiskFile
from hftrain.errors import ConfigurationError, UnsafeCheckpointError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAX_BEHIND_BYTES = 64 << 20
"""How far the hash may fall behind: so much of a device's tensors is held on the host."""
_LOCAL = ("file://", "local://")
_COLLAPSED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing in a folder. A symbolic link, pipe or device is "other", whatever it points to.

    Attributes:
        changed_ns: when a file's content last changed, on this machine's disks; 0 elsewhere.
    """

    name: str
    kind: Literal["file", "folder", "other"]
    num_bytes: int = 0
    changed_ns: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written, summed up on the way to the disk and not read back; ``changed_ns`` as in `Entry`."""

    num_bytes: int
    sha256: str
    changed_ns: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Repeatable:
    """The bytes of a file in pieces, made anew whenever they are asked for: a write that failed can be tried again."""

    pieces: Callable[[], Iterator[Buffer]]

    def __iter__(self) -> Iterator[Buffer]:
        return self.pieces()


class Storage(Protocol):
    """The four verbs."""

    def read(self, path: str) -> BinaryIO:
        """Open a file for reading; the caller closes it. Raises FileNotFoundError."""

    def write(self, path: str, chunks: Iterable[Buffer]) -> Written:
        """Write a whole file, making its folders; when it returns, the file outlives a power cut.

        Only chunks that can be iterated more than once (a list, a `Repeatable`) can be tried again by the storage.
        """

    def list(self, path: str) -> tuple[Entry, ...]:
        """What lies directly in a folder, sorted by name; nothing if there is no such folder."""

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with everything in it; nothing happens if it is not there."""


class LocalStorage:
    """The disks of this machine, through ``os``."""

    def read(self, path: str) -> BinaryIO:
        """Open a file; refuses a symbolic link, for it may lead anywhere, and does not wait for a pipe's other end."""
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, os.O_RDONLY | flags)
        return os.fdopen(descriptor, "rb")

    def write(self, path: str, chunks: Iterable[Buffer]) -> Written:
        """Write, fsync the file, then fsync its folder, without which the file's name may be lost.

        A link is replaced, for it may lead anywhere; so is a pipe, on which a writer would wait for ever.
        """
        folder = os.path.dirname(path) or "."
        _make_folders(folder)
        with contextlib.suppress(FileNotFoundError):
            if not (stat.S_ISREG(mode := os.lstat(path).st_mode) or stat.S_ISDIR(mode)):
                os.unlink(path)
        with DiskFile(path) as file:
            written = hashed(chunks, file.write, file.flush)
            changed_ns = os.fstat(file.fileno()).st_mtime_ns
        _fsync_folder(folder)
        return replace(written, changed_ns=changed_ns)

    def list(self, path: str) -> tuple[Entry, ...]:
        """One ``scandir``; links are not followed."""
        try:
            with os.scandir(path or ".") as scan:
                entries = [_local_entry(item) for item in scan]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(entries, key=lambda entry: entry.name))

    def delete(self, path: str) -> None:
        """Links are removed, never what they point to."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)
            # Else a manifest removed before its folder is written over could come back after a power cut.
            _fsync_folder(os.path.dirname(path) or ".")


def seal(storage: Storage, path: str) -> Written:
    """Sum up a file that other code wrote, and see to it that it outlives a power cut as if we had."""
    digest, num_bytes, changed_ns = hashlib.sha256(), 0, 0
    with storage.read(path) as file:
        while chunk := file.read(_MAX_BEHIND_BYTES // 4):
            digest.update(chunk)
            num_bytes += len(chunk)
        with contextlib.suppress(io.UnsupportedOperation):  # no file of this machine: nothing to flush
            os.fsync(file.fileno())
            changed_ns = os.fstat(file.fileno()).st_mtime_ns
    if not is_url(path):
        _fsync_folder(folder_of(path))
    return Written(num_bytes=num_bytes, sha256=digest.hexdigest(), changed_ns=changed_ns)


def storage_for(path: str) -> Storage:
    """The storage a path lies on; ``file://`` is the local disk (see :func:`plain_path`).

    Raises:
        ConfigurationError: nothing here can use such a URL; says what to install.
    """
    if not is_url(path):
        return LocalStorage()
    from hftrain.checkpoint.patience import PatientStorage  # local runs never need them
    from hftrain.checkpoint.remote import UrlStorage

    return PatientStorage(UrlStorage(path))


def is_url(path: str) -> bool:
    """Whether the path names a filesystem other than this machine's."""
    return "://" in path and not path.startswith(_LOCAL)


def plain_path(path: str | os.PathLike[str]) -> str:
    """The path as this package uses it: a string, without ``file://`` and without a slash at its end.

    Raises:
        ConfigurationError: it is what ``pathlib`` makes of a URL.
    """
    text = os.fspath(path)
    collapsed = _COLLAPSED_URL.match(text) if isinstance(path, os.PathLike) else None
    if collapsed is not None:
        raise ConfigurationError(f'{text} is no URL any more: Path takes a slash from "//". Give the URL as a string.')
    for scheme in _LOCAL:
        text = text.removeprefix(scheme)
    scheme, mark, rest = text.rpartition("://")
    return scheme + mark + rest.rstrip("/") if mark else text.rstrip("/") or text


def join(folder: str, *names: str) -> str:
    """Paths are joined with a slash on every storage."""
    if not folder or folder.endswith("://"):
        return folder + "/".join(names)
    return "/".join([folder.rstrip("/") if folder != "/" else "", *names])


def folder_of(path: str) -> str:
    """The folder a path lies in."""
    folder = path.rpartition("/")[0]
    if is_url(path) and folder.endswith(":/"):
        return folder + "/"
    return folder or ("/" if path.startswith("/") else ".")


def name_of(path: str) -> str:
    """The last piece of a path."""
    return path.rpartition("/")[2]


def is_same_path(one: str, other: str) -> bool:
    """Whether two paths lead to one place; local links are followed."""
    if is_url(one) or is_url(other):
        return plain_path(one) == plain_path(other)
    return os.path.realpath(one) == os.path.realpath(other)


def walk(storage: Storage, folder: str, *, max_files: int = 100_000) -> Iterator[tuple[str, Entry]]:
    """Every file and every "other" under a folder, as (path relative to the folder, entry).

    Raises:
        UnsafeCheckpointError: there are more than ``max_files``; no checkpoint is like that.
    """
    pending = [""]
    num_seen = 0
    while pending:
        below = pending.pop()
        for entry in storage.list(join(folder, below) if below else folder):
            num_seen += 1
            if num_seen > max_files:
                raise UnsafeCheckpointError(f"{folder} holds more than {max_files} files.")
            path = join(below, entry.name) if below else entry.name
            if entry.kind == "folder":
                pending.append(path)
            else:
                yield path, entry


def _local_entry(item: os.DirEntry[str]) -> Entry:
    info = item.stat(follow_symlinks=False)
    if stat.S_ISDIR(info.st_mode):
        return Entry(name=item.name, kind="folder")
    kind: Literal["file", "other"] = "file" if stat.S_ISREG(info.st_mode) else "other"
    return Entry(name=item.name, kind=kind, num_bytes=info.st_size, changed_ns=info.st_mtime_ns)


def hashed(chunks: Iterable[Buffer], write: Callable[[Buffer], object], flush: Callable[[], None]) -> Written:
    """Write and sum up. Hash in a thread while the chunks are written and flushed: all of it releases the GIL."""
    digest = hashlib.sha256()
    num_bytes = 0
    hashing: deque[tuple[Future[None], int]] = deque()
    num_behind = 0
    with ThreadPoolExecutor(max_workers=1) as hasher:
        for chunk in chunks:
            size = memoryview(chunk).nbytes
            hashing.append((hasher.submit(digest.update, chunk), size))
            write(chunk)
            num_bytes += size
            num_behind += size
            while num_behind > _MAX_BEHIND_BYTES:
                future, done = hashing.popleft()
                future.result()
                num_behind -= done
        flush()
    return Written(num_bytes=num_bytes, sha256=digest.hexdigest())


def _make_folders(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder) or "."
    for path in reversed(missing):
        os.makedirs(path, exist_ok=True)  # another rank may have been faster
        _fsync_folder(os.path.dirname(path) or ".")


def _fsync_folder(folder: str) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
