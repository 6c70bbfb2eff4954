"""What is told of checkpoints beside what a run needs to know: every fault, the best, and the protecting of one.

No torch here: listing checkpoints must be instant.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from hftrain.checkpoint.catalog import CheckpointFolder, Status, inspect_folder, problem_with_sum, scan
from hftrain.checkpoint.layout import INCOMPLETE, MANIFEST, MAX_JSON_BYTES, PROTECTED, TRAINER_STATE, load_json
from hftrain.checkpoint.storage import Storage, is_url, join, name_of, plain_path, storage_for
from hftrain.errors import CheckpointError, CheckpointNotFoundError

logger = logging.getLogger(__name__)

_MAX_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one file of a checkpoint, or with the folder, whose ``file`` is ""."""

    file: str
    problem: str


def checkpoints_at(path: str, storage: Storage) -> list[CheckpointFolder]:
    """The checkpoints in a folder, in the order of their commits; of a path that is a checkpoint, this one.

    Raises:
        CheckpointNotFoundError: there is no such folder.
    """
    path = plain_path(path)
    found = _scan(storage, path)
    if found:
        return found
    if not is_url(path) and not os.path.isdir(path):
        found_instead = " It is a file." if os.path.exists(path) else ""
        raise CheckpointNotFoundError(f"There is no folder {path}.{found_instead}")
    folder = inspect_folder(storage, path)
    return [] if folder.status is Status.NOT_ONE else [folder]


def _scan(storage: Storage, path: str) -> list[CheckpointFolder]:
    """Look, and again where a run deleted a checkpoint while it was looked at."""
    for _ in range(_MAX_LOOKS - 1):
        try:
            return scan(storage, path)
        except FileNotFoundError:
            continue
    return scan(storage, path)


def faults(storage: Storage, folder: CheckpointFolder) -> Iterator[Fault]:
    """Everything that keeps a checkpoint from being what was written; reads each listed file whole."""
    if folder.manifest is None:
        yield Fault(file="", problem=folder.reason or "It has no manifest, so nothing tells what was written.")
        return
    for name, record in folder.manifest.files.items():
        entry = folder.files.get(name)
        if entry is None:
            yield Fault(file=name, problem="is missing")
        elif entry.kind != "file":
            yield Fault(file=name, problem="is a link, pipe or device, not a file")
        elif entry.num_bytes != record.num_bytes:
            yield Fault(file=name, problem=f"has {entry.num_bytes} bytes; its manifest says {record.num_bytes}")
        elif (problem := _problem_with_sum(storage, join(folder.path, name), record.sha256)) is not None:
            yield Fault(file=name, problem=problem)


def unlisted_files(folder: CheckpointFolder) -> list[str]:
    """Files that lie in a checkpoint and do not belong to it: nothing reads them."""
    listed = folder.manifest.files if folder.manifest is not None else folder.files
    return sorted(folder.files.keys() - listed.keys() - {MANIFEST, INCOMPLETE, PROTECTED})


def best_of(storage: Storage, folders: list[CheckpointFolder]) -> str | None:
    """The name of the best checkpoint, as the newest committed one knows it."""
    newest = next((one for one in reversed(folders) if one.status is Status.COMMITTED), None)
    if newest is None or newest.manifest is None or TRAINER_STATE not in newest.manifest.files:
        return None  # what is there and not listed is not part of it
    path = join(newest.path, TRAINER_STATE)
    try:
        with storage.read(path) as file:
            state = load_json(file.read(MAX_JSON_BYTES + 1), name=path)
    except (CheckpointError, OSError) as error:
        logger.warning("Which checkpoint is the best is not known: %s", error)
        return None
    best = state.get("best_model_checkpoint") if isinstance(state, dict) else None
    return name_of(plain_path(best)) if isinstance(best, str) else None


def protect(path: str, *, is_protected: bool = True) -> str:
    """Keep a committed checkpoint from ever being deleted by a run, or no longer. Return its path.

    Raises:
        CheckpointNotFoundError: there is no checkpoint.
        CheckpointError: it is not a committed one of hftrain; no run deletes another, unless it is torn.
    """
    path = plain_path(path)
    storage = storage_for(path)
    folder = inspect_folder(storage, path)
    if folder.status is Status.NOT_ONE:
        raise CheckpointNotFoundError(f"There is no checkpoint at {path}.")
    if folder.status is not Status.COMMITTED:
        reason = folder.reason or "hftrain did not write it, and never deletes it."
        raise CheckpointError(f"{path} cannot be protected. {reason}")
    if is_protected:
        storage.write(join(path, PROTECTED), [b""])
    else:
        storage.delete(join(path, PROTECTED))
    return path


def _problem_with_sum(storage: Storage, path: str, expected: str) -> str | None:
    try:
        return problem_with_sum(storage, path, expected)
    except OSError as error:
        return f"cannot be read: {error}"
