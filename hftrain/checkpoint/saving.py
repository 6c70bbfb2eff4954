"""One checkpoint being written: begun, filled by whoever has something to keep, committed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from hftrain.checkpoint.contents import Part
from hftrain.checkpoint.layout import INCOMPLETE, MANIFEST, FileRecord, Manifest, dump_json, is_plain_path
from hftrain.checkpoint.ranks import StorageRefusedError, Writers, is_refusal, text_of
from hftrain.checkpoint.staging import StagedParts
from hftrain.checkpoint.storage import Entry, Storage, Written, is_same_path, is_url, join, seal, walk
from hftrain.checkpoint.writer import write_parts
from hftrain.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Later:
    """What makes a save one that is written while training goes on: its copies, and what starts the writing."""

    parts: StagedParts
    start: Callable[[CheckpointSave], None]


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What a rank tells the others of its share: the files it wrote, and its error in one line."""

    written: dict[str, Written]
    error: str | None
    is_refusal: bool

    @classmethod
    def of(cls, written: dict[str, Written], error: Exception | None) -> _Result:
        if error is None:
            return cls(written=written, error=None, is_refusal=False)
        return cls(written=written, error=text_of(error), is_refusal=is_refusal(error))


class CheckpointSave:
    """A context: inside it the folder is filled, at its end all ranks agree and the writer of each folder commits.

    Files may come by :meth:`write`, or from other code that writes into ``folder`` itself: what lies there at the end
    belongs to the checkpoint. All ranks must enter and leave it, and nothing inside may be collective. An error on
    one rank is an error on all, a `StorageRefusedError` if nothing but the storage is to blame; nothing is committed
    then, nothing older was harmed, and what was written is removed.

    With ``later`` the parts are copied instead, and written when training goes on.
    """

    def __init__(
        self,
        folder: str,
        *,
        step: int,
        storage: Storage,
        writers: Writers,
        max_shard_bytes: int,
        manifest: Callable[[dict[str, FileRecord]], Manifest],
        ended: Callable[[bool], None],
        later: Later | None = None,
    ) -> None:
        self.folder = folder
        self.step = step
        self._storage = storage
        self._writers = writers
        self._max_shard_bytes = max_shard_bytes
        self._manifest = manifest
        self._ended = ended
        self._later = later
        self._written: dict[str, Written] = {}

    def covers(self, folder: str) -> bool:
        """Whether a path is this checkpoint's folder."""
        return is_same_path(folder, self.folder)

    def write(self, parts: Iterable[Part]) -> None:
        """Write this rank's files of the parts, each flushed to the disk, or copy them. Written as it is iterated.

        Raises:
            CheckpointError: a part would write a file that is there already, or holds what no file can.
            OSError: the storage refused.
        """
        if self._later is not None:
            self._later.parts.add(parts)
            return
        self._written |= self._write_into(self._storage, parts)

    def write_copies(self, storage: Storage) -> dict[str, Written]:
        """Write what was copied. A thread may call this, and once more if the storage refused."""
        return self._write_into(storage, self._later.parts.parts if self._later is not None else ())

    def note_commit(self) -> None:
        """Hear, on the writer, that it was committed. A thread may call this."""
        self._ended(True)

    def discard(self) -> None:
        """Free what a failed save wrote, as far as the storage lets us. The writer calls this, when all have ended."""
        try:
            empty_folder(self._storage, self.folder)
            self._storage.delete(self.folder)
        except OSError as error:
            logger.warning("%s could not be removed (%s); it goes after the next commit.", self.folder, error)

    def commit(self, written: dict[str, Written]) -> None:
        """Make the folder a checkpoint. The writer calls this, when all ranks have written; a thread may."""
        manifest = self._manifest(self._all_files(written))
        self._storage.write(self._path(MANIFEST), [manifest.to_json()])
        self._storage.delete(self._path(INCOMPLETE))

    def _write_into(self, storage: Storage, parts: Iterable[Part]) -> dict[str, Written]:
        return write_parts(
            storage,
            self.folder,
            parts,
            rank=self._writers.ranks.process_index,
            is_writer=self._writers.is_writer,
            max_shard_bytes=self._max_shard_bytes,
            taken=self._written,
        )

    def __enter__(self) -> CheckpointSave:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_committed = False
        try:
            is_committed = self._end(error)
        except CheckpointError:
            self._discard_where_written()
            raise
        finally:
            self._ended(is_committed)

    def _end(self, error: BaseException | None) -> bool:
        """Commit, if no rank has an error; say whether it was done. An error of this rank goes on as it came."""
        if error is not None and not isinstance(error, Exception):
            return False  # an interrupt or an exit does not wait for other ranks
        results: list[_Result] = self._writers.ranks.gather_object(_Result.of(self._written, error))
        failures = [f"rank {rank}: {it.error}" for rank, it in enumerate(results) if it.error is not None]
        if failures and (error is None or isinstance(error, OSError | CheckpointError) or is_refusal(error)):
            kind = StorageRefusedError if all(it.is_refusal for it in results if it.error) else CheckpointError
            raise kind(
                f"{self.folder} could not be written ({'; '.join(failures)}). Older checkpoints are untouched."
            ) from error
        if error is not None:
            self._discard_where_written()
            return False  # not raised here: its traceback would hold this frame, and the frame the error and the run
        if self._later is not None:
            self._later.start(self)
            return False
        written = {path: one for rank in self._writers.folder_ranks for path, one in results[rank].written.items()}
        self._writers.run(lambda: self.commit(written), place=self.folder)
        return True

    def _discard_where_written(self) -> None:
        if self._writers.is_writer:
            self.discard()

    def _all_files(self, written: dict[str, Written]) -> dict[str, FileRecord]:
        """Every file in the folder, with those that other code made or changed."""
        found = {
            path: written[path] if _is_unchanged(entry, written.get(path)) else seal(self._storage, self._path(path))
            for path, entry in walk(self._storage, self.folder)
            if entry.kind == "file" and path not in (INCOMPLETE, MANIFEST) and is_plain_path(path)
        }
        missing = sorted(written.keys() - found.keys())
        if missing:
            raise CheckpointError(
                f"{self.folder} lacks {', '.join(missing)} at its commit: other code removed them, or the ranks do not "
                "share this folder. Set output_dir to a folder that all of them see."
            )
        return {path: FileRecord(num_bytes=it.num_bytes, sha256=it.sha256) for path, it in sorted(found.items())}

    def _path(self, name: str) -> str:
        return join(self.folder, name)


def begin_folder(storage: Storage, folder: str, *, run_id: str, step: int) -> None:
    """Mark a folder and empty it: from the first line on it is torn until the commit.

    A link in its place goes first: what it leads to is nobody's checkpoint.
    """
    if not is_url(folder) and os.path.islink(folder):
        storage.delete(folder)
    mark = join(folder, INCOMPLETE)
    try:
        storage.write(mark, [dump_json({"run_id": run_id, "step": step})])
    except OSError:
        with suppress(OSError):  # the first error says what is wrong
            is_empty = all(entry.name == INCOMPLETE for entry in storage.list(folder))
            if not os.path.isfile(folder):  # somebody's file in its place is neither a folder nor empty
                storage.delete(folder if is_empty else mark)
        raise
    empty_folder(storage, folder)


def amended_files(
    storage: Storage, folder: str, found: Mapping[str, Entry], records: Mapping[str, FileRecord]
) -> dict[str, FileRecord]:
    """The records of the files that a committed folder has now; what has not changed since its manifest is not read."""
    committed_ns = found[MANIFEST].changed_ns
    files: dict[str, FileRecord] = {}
    for path, entry in sorted(found.items()):
        if entry.kind != "file" or path in (INCOMPLETE, MANIFEST):
            continue
        record = records.get(path)
        is_changed = bool(entry.changed_ns) and entry.changed_ns >= committed_ns
        if record is None or is_changed or entry.num_bytes != record.num_bytes:
            written = seal(storage, join(folder, path))
            record = FileRecord(num_bytes=written.num_bytes, sha256=written.sha256)
        files[path] = record
    return files


def remove_folder(storage: Storage, folder: str, *, run_id: str) -> None:
    """Remove a checkpoint; marked torn first, so that one stopped halfway is never taken for a checkpoint."""
    storage.write(join(folder, INCOMPLETE), [dump_json({"run_id": run_id, "removing": True})])
    empty_folder(storage, folder)
    storage.delete(folder)


def empty_folder(storage: Storage, folder: str) -> None:
    """Remove all but the mark, the manifest first: what is half removed must not look like the reference's."""
    entries = [entry.name for entry in storage.list(folder) if entry.name != INCOMPLETE]
    for name in sorted(entries, key=lambda name: name != MANIFEST):
        storage.delete(join(folder, name))


def _is_unchanged(entry: Entry, written: Written | None) -> bool:
    if written is None:
        return False
    return (entry.num_bytes, entry.changed_ns) == (written.num_bytes, written.changed_ns)
