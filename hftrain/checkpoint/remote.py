"""Checkpoints behind a URL: any filesystem that fsspec knows, with the errors of its driver as OSError.

An object store has no rename and no folders; it shows an object, whole, when its upload is completed. Credentials and
endpoints come from the driver's own places: the environment (``AWS_ENDPOINT_URL``...) or fsspec's configuration.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from hftrain.checkpoint.patience import driver_errors
from hftrain.checkpoint.storage import Entry, Written, hashed
from hftrain.errors import ConfigurationError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "adl", "az"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    **dict.fromkeys(("hdfs", "arrow_hdfs"), "pyarrow"),
    **dict.fromkeys(("oci", "ocilake"), "ocifs"),
    **dict.fromkeys(("tos", "tosfs"), "tosfs"),
    "dropbox": "dropboxdrivefs",
    "lakefs": "lakefs-spec",
    "oss": "ossfs",
    "smb": "smbprotocol",
    "webdav": "webdav4",
}
"""Protocol -> the package that speaks it; fsspec itself says so in words only."""
_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "tos"})
"""Stores to which asking for a folder may mean: create the bucket."""
_GLOB = re.compile(r"[*?\[]")


class UrlStorage:
    """Any URL that fsspec has a filesystem for: ``s3://``, ``gs://``, ``memory://``..."""

    def __init__(self, url: str) -> None:
        self._filesystem = _filesystem_of(url)
        protocols = self._filesystem.protocol
        is_store = not _WITHOUT_FOLDERS.isdisjoint([protocols] if isinstance(protocols, str) else protocols)
        self._makes_folders = not is_store

    def read(self, path: str) -> BinaryIO:
        """Open an object for reading, past fsspec's cache of its size, for other ranks write too."""
        with driver_errors(path):
            self._filesystem.invalidate_cache()
            return cast("BinaryIO", self._filesystem.open(self._key(path), "rb"))

    def write(self, path: str, chunks: Iterable[Buffer]) -> Written:
        """Write an object; one that fails halfway is not completed, where the driver can leave it so."""
        key = self._key(path)
        with driver_errors(path):
            if self._makes_folders:
                self._filesystem.makedirs(os.path.dirname(key), exist_ok=True)
            file = self._filesystem.open(key, "wb")
        try:
            written = hashed(chunks, lambda chunk: _write(file, chunk, path), lambda: None)
            with driver_errors(path):
                file.close()
        except BaseException:
            _abandon(file)
            raise
        return written

    def list(self, path: str) -> tuple[Entry, ...]:
        """One listing, past fsspec's cache."""
        folder = self._key(path)
        try:
            with driver_errors(path):
                self._filesystem.invalidate_cache()
                details = self._filesystem.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        entries = []
        for item in details:
            name = item["name"].rstrip("/")
            if name != folder.rstrip("/"):  # s3 lists the folder in itself where someone made an object of its name
                entries.append(_entry(name.rpartition("/")[2], item))
        return tuple(sorted(entries, key=lambda entry: entry.name))

    def delete(self, path: str) -> None:
        """Remove an object, or everything under a prefix."""
        key = self._key(path)
        with contextlib.suppress(FileNotFoundError), driver_errors(path):
            self._filesystem.invalidate_cache()
            if not _GLOB.search(key):
                self._filesystem.rm(key, recursive=True)
                return
            for name in self._filesystem.find(key):  # rm would take the name for a pattern
                self._filesystem.rm_file(name)

    def _key(self, path: str) -> str:
        """The path as the driver wants it; not each of its methods takes a URL."""
        return cast("str", self._filesystem._strip_protocol(path))


def _filesystem_of(url: str) -> Any:
    """Return fsspec's filesystem for a URL.

    Raises:
        ConfigurationError: there is none, or its package is not installed; says what to install.
    """
    from fsspec.core import url_to_fs  # imported when a URL is used: local runs never need it

    protocol = url.partition("://")[0]
    if "::" in url:
        raise ConfigurationError(f"{url} chains filesystems, and checkpoints need one that lists and deletes. Name it.")
    try:
        return url_to_fs(url)[0]
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        needed = f"the package {package}, which is not installed: pip install {package}" if package else str(error)
        raise ConfigurationError(f"{url} cannot be used: {protocol}:// needs {needed}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{url} cannot be used: {error}. Set a path, or a URL that fsspec knows.") from error


def _entry(name: str, item: dict[str, Any]) -> Entry:
    kinds: dict[str, Literal["file", "folder"]] = {"file": "file", "directory": "folder"}
    return Entry(name=name, kind=kinds.get(item["type"], "other"), num_bytes=int(item.get("size") or 0))


def _write(file: Any, chunk: Buffer, path: str) -> None:
    with driver_errors(path):
        file.write(chunk)


def _abandon(file: Any) -> None:
    """Give an upload up: closing the file, which its destructor does too, would complete it with half of the bytes."""
    from fsspec.spec import AbstractBufferedFile

    with contextlib.suppress(Exception):  # the error that led here says more
        file.discard()
    if isinstance(file, AbstractBufferedFile):
        file.closed = True
        return
    with contextlib.suppress(Exception):
        file.close()
