"""A storage that asks again: object stores drop requests, show what was written later, and are away for seconds."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from hftrain.checkpoint.storage import Entry, Storage, Written, folder_of, name_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Between the tries of one request; the drivers ask several times themselves before."""
ARRIVAL_WAITS_S = (0.0, 0.1, 0.4, 1.0)
"""How long after its upload an object may be unseen, or seen shorter than it is, before it is uploaded again."""
_READ_AHEAD_BYTES = 1 << 20
_LASTING = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST, errno.EISDIR}
    | {errno.ENOTDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOSYS, errno.EMSGSIZE, errno.ELOOP}
)
_OUTAGE = re.compile(r"Timeout|Connect|Payload|HTTPClient|Incomplete|Streaming|Throttl|Service(Request|Respon)")
_OUTAGE_CODES = (408, 429, 500, 502, 503, 504)


class PatientStorage:
    """Tries each verb again, a bounded number of times and ever later; then the last error is raised.

    A write has succeeded when the storage lists the file with as many bytes as were given to it.
    """

    def __init__(self, inner: Storage, *, waits_s: tuple[float, ...] | None = None) -> None:
        self._inner = inner
        self._waits_s = WAITS_S if waits_s is None else waits_s

    def read(self, path: str) -> BinaryIO:
        """Open a file that is opened again, at its place, when a read of it fails."""
        file = _PatientFile(lambda: self._inner.read(path), lambda action: self._again(action, path), path)
        return cast("BinaryIO", io.BufferedReader(file, _READ_AHEAD_BYTES))

    def write(self, path: str, chunks: Iterable[Buffer]) -> Written:
        """Write a whole file; chunks that can be iterated once only are not written again."""
        is_repeatable = iter(chunks) is not chunks
        return self._again(lambda: self._write(path, chunks), path, is_repeatable=is_repeatable)

    def list(self, path: str) -> tuple[Entry, ...]:
        """List a folder."""
        return self._again(lambda: self._inner.list(path), path)

    def delete(self, path: str) -> None:
        """Remove a file or a folder."""
        self._again(lambda: self._inner.delete(path), path)

    def _write(self, path: str, chunks: Iterable[Buffer]) -> Written:
        written = self._inner.write(path, chunks)
        found: Entry | None = None
        for wait_s in ARRIVAL_WAITS_S:
            time.sleep(wait_s)
            found = next((it for it in self.list(folder_of(path)) if it.name == name_of(path)), None)
            if found is not None and found.num_bytes == written.num_bytes:
                return written
        there = "it is not there" if found is None else f"it has {found.num_bytes} bytes"
        raise OSError(errno.EIO, f"{written.num_bytes} bytes were written, and {there}", path)

    def _again(self, action: Callable[[], T], path: str, *, is_repeatable: bool = True) -> T:
        for wait_s in self._waits_s:
            try:
                return action()
            except OSError as error:
                if not (is_repeatable and is_transient(error)):
                    raise
                logger.warning("%s: %s. It is tried again in %g s.", path, error.strerror or error, wait_s)
            time.sleep(wait_s)
        try:
            return action()
        except OSError as error:
            if not is_transient(error):
                raise
            num_tries, total_s = len(self._waits_s) + 1, sum(self._waits_s)
            text = f"{error.strerror or error} (tried {num_tries} times in {total_s:g} s)"
            raise OSError(error.errno or errno.EIO, text, path) from error


@contextlib.contextmanager
def driver_errors(path: str) -> Iterator[None]:
    """Raise what a driver raises as OSError: the libraries below fsspec have exceptions of their own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        code = errno.EIO if _is_outage(error) else errno.EINVAL
        raise OSError(code, f"{type(error).__name__}: {error}", path) from error


def _is_outage(error: Exception) -> bool:
    """Whether a library's own exception says that the service or the way to it failed, and not what was asked."""
    codes = [getattr(error, name, None) for name in ("code", "status", "status_code")]
    return any(_OUTAGE.search(kind.__name__) for kind in type(error).__mro__) or any(
        it in _OUTAGE_CODES for it in codes
    )


def is_transient(error: OSError) -> bool:
    """Whether the same request may succeed a little later: not where a file, a right or space is lacking."""
    if isinstance(
        error, FileNotFoundError | PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError
    ):
        return False  # drivers raise these without a number
    return not isinstance(error, io.UnsupportedOperation) and error.errno not in _LASTING


class _PatientFile(io.RawIOBase):
    """A file for reading that is opened again, at its place, when a read fails."""

    def __init__(
        self, open_again: Callable[[], BinaryIO], patiently: Callable[[Callable[[], Any]], Any], path: str
    ) -> None:
        self._open_again = open_again
        self._patiently = patiently
        self._path = path
        self._file: BinaryIO | None = patiently(open_again)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._patiently(lambda: self._at_place(lambda file: file.read(len(view))))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = self._patiently(lambda: self._at_place(lambda file: file.seek(offset, whence)))
        return self._place

    def close(self) -> None:
        self._drop()
        super().close()

    def _at_place(self, action: Callable[[BinaryIO], T]) -> T:
        try:
            with driver_errors(self._path):
                if self._file is None:
                    self._file = self._open_again()
                    self._file.seek(self._place)
                return action(self._file)
        except OSError:
            self._drop()
            raise

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):  # nothing was written; what it says of its connection helps nobody
                file.close()
