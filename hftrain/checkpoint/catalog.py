"""What lies in an output folder: which folders are checkpoints, and which of them can be trusted.

No torch here: listing checkpoints must be instant.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Literal

from hftrain.checkpoint.layout import (
    INCOMPLETE,
    MANIFEST,
    MAX_JSON_BYTES,
    PROTECTED,
    TRAINER_STATE,
    Manifest,
    NewerFormatError,
    parse_step,
)
from hftrain.checkpoint.storage import Entry, Storage, join, name_of, walk
from hftrain.errors import CheckpointError, TornCheckpointError, UnsafeCheckpointError

Verification = Literal["auto", "full", "sizes"]

CHECKED_BYTES = 1 << 30
"""``verify="auto"`` reads everything below this many bytes; above, sizes are compared."""
_READ_BYTES = 16 << 20


class Status(enum.Enum):
    """What a folder is, by what lies in it."""

    COMMITTED = "committed"
    TORN = "torn"
    """It was begun and never committed, or no longer matches its manifest."""
    UNVERIFIABLE = "unverifiable"
    """It is the reference's: whole or not, nothing tells."""
    NEWER = "newer"
    """A later version of hftrain wrote it."""
    NOT_ONE = "not a checkpoint"


OWN_FILES = frozenset({"run.json", "data.json"})
"""Files that no other trainer writes: a folder with one of them and without a manifest has lost it."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFolder:
    """A folder, looked at.

    Attributes:
        step: of the manifest, else of the folder's name; None if neither tells.
        files: path inside the folder -> what lies there, listed in the manifest or not.
        reason: why it is not committed.
    """

    path: str
    status: Status
    step: int | None
    files: dict[str, Entry]
    manifest: Manifest | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return name_of(self.path)

    @property
    def is_damaged(self) -> bool:
        """Whether it is torn although nothing says that it is being written or removed: it was whole once."""
        return self.status is Status.TORN and bool(self.files) and INCOMPLETE not in self.files

    @property
    def is_protected(self) -> bool:
        """Whether a user asked that it is never deleted."""
        return PROTECTED in self.files


def inspect_folder(storage: Storage, path: str) -> CheckpointFolder:
    """Look at one folder: read its manifest and compare the sizes of all files it lists. Reads no other file.

    Without a manifest only the top level is looked at: the folder may be a whole output_dir.
    """
    top = storage.list(path)
    is_listed = any(entry.name == MANIFEST and entry.kind != "folder" for entry in top)
    files = dict(walk(storage, path)) if is_listed else {it.name: it for it in top if it.kind != "folder"}
    step = parse_step(name_of(path))
    manifest = None
    reason = ""
    status = _status_without_manifest(files, is_empty_step=not top and step is not None)
    if is_listed:
        try:
            manifest = read_manifest(storage, path, files)
            check_sizes(path, manifest, files)
            status, step = Status.COMMITTED, manifest.step
        except NewerFormatError as error:
            status, reason = Status.NEWER, str(error)
        except (TornCheckpointError, UnsafeCheckpointError) as error:
            status, reason = Status.TORN, str(error)
    elif status is Status.TORN:
        is_begun = INCOMPLETE in files or not files
        reason = f"{path} was begun and never committed." if is_begun else f"{path} has lost its {MANIFEST}."
    return CheckpointFolder(path=path, status=status, step=step, files=files, manifest=manifest, reason=reason)


def _status_without_manifest(files: dict[str, Entry], *, is_empty_step: bool) -> Status:
    # An empty checkpoint-<step> is what is left when a save or a removal is stopped at its first or last step.
    if INCOMPLETE in files or is_empty_step:
        return Status.TORN
    if TRAINER_STATE not in files:
        return Status.NOT_ONE
    return Status.TORN if OWN_FILES & files.keys() else Status.UNVERIFIABLE


def scan(
    storage: Storage, output_dir: str, *, known: dict[str, CheckpointFolder] | None = None
) -> list[CheckpointFolder]:
    """All ``checkpoint-<step>`` folders of an output folder, in the order of their commits.

    Those that were never committed come first, by step. A link to a folder is not one of them.

    Args:
        storage: where ``output_dir`` lies.
        output_dir: the folder to look into.
        known: folders by name that need no second look; new committed ones are added.
    """
    known = {} if known is None else known
    found = []
    for entry in storage.list(output_dir):
        if entry.kind != "folder" or parse_step(entry.name) is None:
            continue
        folder = known.get(entry.name) or inspect_folder(storage, join(output_dir, entry.name))
        if folder.status is Status.COMMITTED:
            known[entry.name] = folder
        found.append(folder)
    return sorted(found, key=lambda folder: (folder.manifest.created if folder.manifest else "", folder.step or 0))


def read_manifest(storage: Storage, path: str, files: dict[str, Entry]) -> Manifest:
    """Read a folder's manifest. Raises as :meth:`Manifest.from_json`."""
    if files[MANIFEST].kind != "file" or files[MANIFEST].num_bytes > MAX_JSON_BYTES:
        raise UnsafeCheckpointError(f"{join(path, MANIFEST)} is no file of a sane size.")
    with storage.read(join(path, MANIFEST)) as file:
        return Manifest.from_json(file.read(MAX_JSON_BYTES + 1))


def check_sizes(path: str, manifest: Manifest, files: dict[str, Entry]) -> None:
    """Compare what a manifest lists with what lies there.

    Raises:
        UnsafeCheckpointError: a listed file is a link, pipe or device.
        TornCheckpointError: one is missing or has another size.
    """
    for name, record in manifest.files.items():
        entry = files.get(name)
        if entry is not None and entry.kind != "file":
            raise UnsafeCheckpointError(f"{join(path, name)} is a link, pipe or device, not a file.")
        if entry is None or entry.num_bytes != record.num_bytes:
            found = "is missing" if entry is None else f"has {entry.num_bytes} bytes"
            raise TornCheckpointError(f"{join(path, name)} {found}; its manifest says {record.num_bytes} bytes.")


def check_sums(storage: Storage, folder: CheckpointFolder, level: Verification) -> None:
    """Read every listed file and compare its sha256, as far as ``level`` asks for that.

    Raises:
        TornCheckpointError: a file is not what was written.
    """
    manifest = folder.manifest
    if manifest is None or level == "sizes" or (level == "auto" and manifest.total_bytes >= CHECKED_BYTES):
        return
    for name, record in manifest.files.items():
        path = join(folder.path, name)
        try:
            problem = problem_with_sum(storage, path, record.sha256)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error
        if problem is not None:
            raise TornCheckpointError(f"{path} {problem}.")


def problem_with_sum(storage: Storage, path: str, expected: str) -> str | None:
    """Read a file whole; return in what its sha256 is wrong, None if it is right. Raises OSError."""
    digest = hashlib.sha256()
    with storage.read(path) as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    if digest.hexdigest() == expected:
        return None
    return f"changed after it was written: its sha256 is {digest.hexdigest()}, the manifest says {expected}"
