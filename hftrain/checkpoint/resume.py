"""Which checkpoint ``resume_from_checkpoint`` means. Rank 0 asks; nothing here is collective."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from functools import partial

from hftrain.checkpoint.catalog import CheckpointFolder, Status, Verification, check_sums, inspect_folder, scan
from hftrain.checkpoint.layout import holds_weights, parse_step
from hftrain.checkpoint.ranks import Writers
from hftrain.checkpoint.storage import Storage, folder_of, is_same_path, join, name_of, plain_path, storage_for, walk
from hftrain.errors import CheckpointError, CheckpointNotFoundError, TornCheckpointError, UnsafeCheckpointError

logger = logging.getLogger(__name__)


class ResumeFinder:
    """Looks through one output folder, and at what is named outside of it."""

    def __init__(self, storage: Storage, output_dir: str, *, verify: Verification) -> None:
        self._storage = storage
        self._output_dir = output_dir
        self._verify: Verification = verify

    def find(self, resume_from: bool | str | os.PathLike[str], *, among: Collection[str] | None = None) -> str | None:
        """The path to resume from, verified; None to start at step 0. Raises as ``CheckpointManager.resolve``.

        Args:
            resume_from: as there.
            among: the names of those that count, for True and "auto"; None for all.
        """
        if resume_from is not True and resume_from != "auto":
            return self._named(plain_path(resume_from))  # type: ignore[arg-type]
        found = scan(self._storage, self._output_dir)
        path = self.newest([folder for folder in found if among is None or folder.name in among])
        self._warn_of_damaged(found, taken=path)
        if path is not None or among is not None:
            return path
        newer = [folder.reason for folder in found if folder.status is Status.NEWER]
        if newer:
            raise TornCheckpointError(f"{self._output_dir} holds no checkpoint that can be read. {newer[-1]}")
        if any(folder.status is not Status.NOT_ONE for folder in found):
            logger.warning("%s holds only torn checkpoints; starting at step 0.", self._output_dir)
            return None
        if resume_from == "auto":
            return None
        raise CheckpointNotFoundError(
            f"No valid checkpoint found in output directory ({self._output_dir}), and resume_from_checkpoint=True asks "
            'for one. Set resume_from_checkpoint="auto" to start afresh when there is none.'
        )

    def committed(self) -> list[str]:
        """The names of the committed checkpoints in the folder."""
        return [one.name for one in scan(self._storage, self._output_dir) if one.status is Status.COMMITTED]

    def _named(self, path: str) -> str | None:
        folder = self._look_at(path)
        if folder is None:
            raise CheckpointNotFoundError(
                f"Can't find a valid checkpoint at {path}. Set resume_from_checkpoint to the path of a checkpoint "
                f"folder, or to its name under output_dir ({self._output_dir})."
            )
        reason = self._reason_against(folder)
        if reason is None:
            return folder.path
        parent = folder_of(folder.path)
        if not is_same_path(parent, self._output_dir) or folder.status is Status.NEWER:
            raise TornCheckpointError(f"{folder.path} cannot be resumed from. {reason}")
        found = [other for other in scan(self._storage, self._output_dir) if other.name != folder.name]
        before = self.newest([other for other in found if (other.step or 0) < (folder.step or 0)])
        if before is not None:
            logger.warning("%s cannot be resumed from; taking %s instead. %s", folder.path, before, reason)
            return before
        if folder.is_damaged or any(other.status in (Status.COMMITTED, Status.UNVERIFIABLE) for other in found):
            raise TornCheckpointError(
                f"{folder.path} cannot be resumed from, and there is none before it. {reason} Leave "
                "resume_from_checkpoint out to start at step 0."
            )
        logger.warning("%s was never committed, nor was any other there; starting at step 0.", folder.path)
        return None

    def _warn_of_damaged(self, found: Sequence[CheckpointFolder], *, taken: str | None) -> None:
        """Say which later checkpoints were whole once: those that a kill left unfinished are nothing to wonder at."""
        step_taken = -1 if taken is None else parse_step(name_of(taken)) or 0
        for folder in found:
            if folder.is_damaged and (folder.step or 0) > step_taken:
                logger.warning("%s is passed over. %s", folder.path, folder.reason)

    def _look_at(self, path: str) -> CheckpointFolder | None:
        """The folder as given, else under output_dir; None if there is no checkpoint, torn or whole."""
        is_relative = "://" not in path and not os.path.isabs(path)
        for candidate in [path, join(self._output_dir, path)] if is_relative else [path]:
            folder = inspect_folder(self._storage_of(candidate), candidate)
            if folder.status is Status.NOT_ONE or self._lacks_weights(folder):
                continue
            if folder.files or self._exists(candidate):
                return folder
        return None

    def _lacks_weights(self, folder: CheckpointFolder) -> bool:
        """Whether it is the reference's, by its state, and nothing is in it to go on from."""
        if folder.status is not Status.UNVERIFIABLE:
            return False
        return not any(holds_weights(name_of(path)) for path, _ in walk(self._storage_of(folder.path), folder.path))

    def _exists(self, path: str) -> bool:
        """Whether an empty folder is there: its parent lists it."""
        return any(entry.name == name_of(path) for entry in self._storage_of(path).list(folder_of(path)))

    def _storage_of(self, path: str) -> Storage:
        return self._storage if path.startswith(self._output_dir + "/") else storage_for(path)

    def newest(self, found: Sequence[CheckpointFolder]) -> str | None:
        """The path of the one committed last; the reference's, which nothing dates, counts by its step.

        Raises:
            CheckpointError: one cannot be read, and there is none before it that can.
        """
        usable = [folder for folder in found if folder.status in (Status.COMMITTED, Status.UNVERIFIABLE)]
        committed = [folder for folder in usable if folder.status is Status.COMMITTED]
        others = [folder for folder in usable if folder.status is Status.UNVERIFIABLE]
        unread: CheckpointError | None = None
        while committed or others:
            is_other_newer = not committed or (others and (others[-1].step or 0) > (committed[-1].step or 0))
            folder = others.pop() if is_other_newer else committed.pop()
            try:
                reason = self._reason_against(folder)
            except CheckpointError as error:
                reason, unread = str(error), unread or error
            if reason is None:
                return folder.path
            logger.warning("%s is passed over. %s", folder.path, reason)
        if unread is not None:  # whole or not: a run that starts at step 0 would write over it
            raise unread
        return None

    def _reason_against(self, folder: CheckpointFolder) -> str | None:
        """Why a folder cannot be resumed from; None if it can. Raises CheckpointError where it cannot be read."""
        if self._lacks_weights(folder):
            return f"{folder.path} holds no weights."
        if folder.status is Status.UNVERIFIABLE:
            logger.warning("%s was written by another trainer: it has no manifest and cannot be verified.", folder.path)
            return None
        if folder.status is not Status.COMMITTED:
            return folder.reason
        try:
            check_sums(self._storage_of(folder.path), folder, self._verify)
        except (TornCheckpointError, UnsafeCheckpointError) as error:
            return str(error)
        return None


def agreed(
    writers: Writers, finder: ResumeFinder, resume_from: bool | str | os.PathLike[str], *, place: str
) -> str | None:
    """What the finder finds, the same on all nodes where each has a folder of its own. All ranks must call this.

    A run that was killed while its nodes committed has a newest checkpoint on some of them only: then it is the newest
    that all of them have.

    Raises:
        TornCheckpointError: a path names a checkpoint that some node cannot read.
    """
    path: str | None = writers.run(lambda: finder.find(resume_from), place=place)
    if len(set(writers.of_each(None if path is None else name_of(path)))) == 1:
        return path
    if resume_from is not True and resume_from != "auto":
        raise TornCheckpointError(
            f"{resume_from} cannot be resumed from: it is not committed on every node. Set resume_from_checkpoint=True "
            "for the newest that is."
        )
    shared = set.intersection(*map(set, writers.of_each(writers.run(finder.committed, place=place))))
    while shared:
        path = writers.run(partial(finder.find, resume_from, among=shared), place=place)
        found = writers.of_each(None if path is None else name_of(path))
        if len(set(found)) == 1:
            logger.warning("The nodes' newest checkpoints differ; taking %s, which all have.", path)
            return path
        oldest = min(found, key=lambda name: -1 if name is None else parse_step(name) or 0)
        shared = set() if oldest is None else shared - (set(found) - {oldest})  # some node passed the others over
    logger.warning("No checkpoint in %s is committed on every node; starting at step 0.", place)
    return None


def get_last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The checkpoint in a folder that `Trainer.train(resume_from_checkpoint=True)` would go on from; None without one.

    That is the one committed last; torn ones do not count. Sizes are compared with the manifest, contents are not
    read. The reference's own checkpoints, which nothing dates, count by their step.
    """
    folder = plain_path(folder)
    storage = storage_for(folder)
    finder = ResumeFinder(storage, folder, verify="sizes")
    return finder.newest(scan(storage, folder))
