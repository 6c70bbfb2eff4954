"""The checkpoints of one run: write all parts, commit by the manifest, then clean up; and which one to resume from."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import torch

from hftrain._version import __version__
from hftrain.checkpoint.background import BackgroundSaves
from hftrain.checkpoint.catalog import CheckpointFolder, Status, Verification, inspect_folder, read_manifest, scan
from hftrain.checkpoint.cleaning import Keeping
from hftrain.checkpoint.contents import Part
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.formats import parse_size
from hftrain.checkpoint.held import held_names
from hftrain.checkpoint.layout import (
    MANIFEST,
    PROTECTED,
    FileRecord,
    Manifest,
    checked_path,
    checkpoint_name,
    parse_time,
    utc_text,
)
from hftrain.checkpoint.ranks import Ranks, StorageRefusedError, Writers
from hftrain.checkpoint.reader import CheckpointReader
from hftrain.checkpoint.resume import ResumeFinder, agreed
from hftrain.checkpoint.saving import CheckpointSave, Later, amended_files, begin_folder, remove_folder
from hftrain.checkpoint.staging import StagedParts
from hftrain.checkpoint.storage import Storage, is_same_path, join, name_of, plain_path, storage_for
from hftrain.errors import CheckpointError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CommittedCheckpoint:
    """A checkpoint whose manifest checks."""

    path: str
    step: int
    run_id: str


class CheckpointManager:
    """Saves, finds, opens and cleans up the checkpoints in one output folder.

    Rank 0 decides and the others follow; an error on one rank is an error on all.

    With ``node_size`` processes on each node, and an output folder on each, the first process of each node does for its
    folder what rank 0 does. What is committed is committed on all nodes, and only that is resumed from.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        run_id: str,
        ranks: Ranks,
        save_total_limit: int | None = None,
        keep_every_steps: int | None = None,
        max_shard_size: str | int = "5GB",
        verify: Verification = "auto",
        storage: Storage | None = None,
        node_size: int | None = None,
    ) -> None:
        self.output_dir = plain_path(output_dir)
        self.run_id = run_id
        self._ranks = ranks
        self._writers = Writers(ranks, node_size=node_size)
        self._keeping = Keeping(
            limit=save_total_limit if save_total_limit and save_total_limit > 0 else None, every=keep_every_steps
        )
        self._max_shard_bytes = parse_size(max_shard_size)
        self._verify: Verification = verify
        self._storage = storage or storage_for(self.output_dir)
        self._known: dict[str, CheckpointFolder] = {}
        self._verified: str | None = None
        self._resumed_from: str | None = None
        """Until the next commit, this one is not deleted."""
        self._open_save: CheckpointSave | None = None
        self._newest: str | None = None
        """The name of the one this process committed last."""
        self.listeners: list[Callable[[CommittedCheckpoint], None]] = []
        """Told of each commit on the writer, at once: in the thread that writes, if one does."""
        self.background = BackgroundSaves(self._storage, ranks)

    # ---------------------------------------------------------------------------------------------------------- saving

    def begin(
        self,
        step: int,
        *,
        epoch: float,
        samples: int,
        loaded: str | None = None,
        folder_name: str | None = None,
    ) -> CheckpointSave | None:
        """Begin a checkpoint: a context that is filled and, at its end, committed. All ranks must call this.

        Args:
            step: optimizer steps done.
            epoch: epochs done, with the fraction.
            samples: samples consumed, in the seeded global order.
            loaded: path of the one this run resumed from. It is never written over at its own step: the state
                has not moved, so it stays as it is and None is returned. The same goes for the one that was committed
                last, and for one of this run, at this very place, that is protected or being uploaded.
            folder_name: instead of ``checkpoint-<step>``; retention does not see such a folder.

        Raises:
            StorageRefusedError: a checkpoint of another place or run is protected or being uploaded there, or nothing
                can be written. What was there is as it was.
        """
        self.background.raise_outcome()
        name = checked_path(folder_name) if folder_name else checkpoint_name(step)
        folder = join(self.output_dir, name)
        stays = self._on_writers(lambda: self._stays_as_it_is(folder, loaded, step, samples))
        if any(self._writers.of_each(stays)):
            return None
        self._known.pop(name, None)
        self._writers.run(lambda: begin_folder(self._storage, folder, run_id=self.run_id, step=step), place=folder)
        parts = self.background.stage(self._max_shard_bytes)
        self._open_save = CheckpointSave(
            folder,
            step=step,
            storage=self._storage,
            writers=self._writers,
            max_shard_bytes=self._max_shard_bytes,
            manifest=lambda files: self._manifest(step, epoch, samples, files),
            ended=lambda is_committed: self._note_end(name, step, is_committed=is_committed),
            later=None if parts is None else Later(parts, lambda save: self._write_later(save, parts)),
        )
        return self._open_save

    def _note_end(self, name: str, step: int, *, is_committed: bool) -> None:
        self._open_save = None
        if not is_committed:
            return
        self._newest, self._resumed_from = name, None
        self.background.unmended = None
        if self._writers.is_writer:
            told = CommittedCheckpoint(path=join(self.output_dir, name), step=step, run_id=self.run_id)
            for listener in self.listeners:
                try:
                    listener(told)
                except Exception as error:  # the checkpoint is committed: who hears of it cannot undo that
                    logger.warning("%s was committed, and a listener failed to hear of it: %r", told.path, error)

    def open_save_in(self, folder: str) -> CheckpointSave | None:
        """The checkpoint that is being written into this very folder, if one is."""
        save = self._open_save
        return save if save is not None and save.covers(folder) else None

    def save(
        self,
        step: int,
        parts: Iterable[Part],
        *,
        epoch: float,
        samples: int,
        best: str | None = None,
        loaded: str | None = None,
        folder_name: str | None = None,
    ) -> str:
        """Write a checkpoint, commit it, and only then delete what is torn or surplus. All ranks must call this.

        Args:
            step: as in :meth:`begin`, like ``epoch``, ``samples``, ``loaded`` and ``folder_name``.
            parts: rank 0's whole, the other ranks' at least those that are ``per_rank``. Written as it is iterated.
            best: path of the best checkpoint, never deleted.

        Returns:
            The path of the committed folder.

        Raises:
            CheckpointError: some rank could not write. Nothing older was harmed.
        """
        save = self.begin(step, epoch=epoch, samples=samples, loaded=loaded, folder_name=folder_name)
        if save is None:
            return join(self.output_dir, folder_name or checkpoint_name(step))
        with save:
            save.write(parts)
        self._on_writers(lambda: self.clean_up(best))
        return save.folder

    def _write_later(self, save: CheckpointSave, parts: StagedParts) -> None:
        self._open_save = None  # nobody writes into it any more
        self.background.start(save, parts, clean_up=self._clean_up)

    def amend(self) -> None:
        """Let the newest checkpoint's manifest say what it holds, where callbacks changed its files after the commit.

        A script's ``on_save`` may write a model into the folder, or remove what it has no use for. All ranks must call
        this, after their callbacks.
        """
        self._ranks.barrier()
        self._on_writers(self._amend_newest)

    def _amend_newest(self) -> None:
        folder = join(self.output_dir, self._newest or "")
        found = inspect_folder(self._storage, folder) if self._newest else None
        if found is None or MANIFEST not in found.files:
            return
        manifest = read_manifest(self._storage, folder, found.files)
        files = amended_files(self._storage, folder, found.files, manifest.files)
        # Files beside those that are listed do no harm, while a manifest being written over is none until it is whole.
        if any(files.get(path) != record for path, record in manifest.files.items()):
            self._known.pop(found.name, None)
            self._storage.write(join(folder, MANIFEST), [replace(manifest, files=files).to_json()])

    # ---------------------------------------------------------------------------------------------------- what is there

    def retain(self, *, best: str | None = None) -> None:
        """Clean up at the end of training, as the reference does. All ranks must call this.

        With ``save_total_limit=1`` only the best stays, if there is one and it is committed.
        """
        self._on_writers(lambda: self.clean_up(best, at_end=True))

    def committed(self) -> list[CommittedCheckpoint]:
        """All committed checkpoints in the folder, of any run, in the order of their commits. No collective."""
        return [
            CommittedCheckpoint(path=folder.path, step=folder.manifest.step, run_id=folder.manifest.run_id)
            for folder in scan(self._storage, self.output_dir)
            if folder.manifest is not None and folder.status is Status.COMMITTED
        ]

    @property
    def newest(self) -> str | None:
        """The path of what was committed last by this run; None if nothing was."""
        return None if self._newest is None else join(self.output_dir, self._newest)

    def has_committed(self, step: int) -> bool:
        """Whether this step's checkpoint is committed in the folder, by any run. Looks at no other. No collective."""
        found = inspect_folder(self._storage, join(self.output_dir, checkpoint_name(step)))
        return found.status is Status.COMMITTED and found.step == step

    def whereabouts(self, path: str) -> str | None:
        """Where a checkpoint lies: under this output folder, if that was moved; else as given. None: nowhere."""
        moved = join(self.output_dir, name_of(plain_path(path)))
        if any(one.path == moved for one in self.committed()):
            return moved
        return path if inspect_folder(storage_for(path), path).files else None

    def _stays_as_it_is(self, folder: str, loaded: str | None, step: int, samples: int) -> bool:
        """Whether what lies in the folder stands for the save that is asked for; raises where it may not be touched."""
        found = inspect_folder(self._storage, folder)
        manifest = found.manifest if found.status is Status.COMMITTED else None
        is_here = manifest is not None and (manifest.step, manifest.samples) == (step, samples)
        if is_here and loaded is not None and is_same_path(folder, loaded):
            logger.info("%s is what this run resumed from, at the same step; it is kept as it is.", folder)
            return True
        if is_here and found.name == self._newest:  # twice at one step: writing over it could lose what is committed
            logger.info("%s is committed already, at this very step; it is kept as it is.", folder)
            return True
        reason = "is protected" if found.is_protected else self._hold_on(found)
        if reason is None:
            return False
        if is_here and manifest is not None and manifest.run_id == self.run_id:
            logger.warning("%s %s, so it is kept as it is, and not saved once more.", folder, reason)
            return True
        raise StorageRefusedError(
            f"{folder} {reason}, so step {step} of this run cannot be saved there. Set output_dir to another folder, "
            "or let it go (hftrain checkpoint protect --undo PATH, if it is protected)."
        )

    def _hold_on(self, found: CheckpointFolder) -> str | None:
        is_held = bool(found.files) and found.name in held_names(self._storage, self.output_dir, self.run_id)
        return "is being uploaded" if is_held else None

    def _manifest(self, step: int, epoch: float, samples: int, files: Mapping[str, FileRecord]) -> Manifest:
        known = scan(self._storage, self.output_dir, known=self._known)
        newest = max((folder.manifest.created for folder in known if folder.manifest), default="")
        created = datetime.now(UTC)
        if newest:  # a clock that was set back must not change the order of the commits
            created = max(created, parse_time(newest) + timedelta(microseconds=1))
        return Manifest(
            run_id=self.run_id,
            step=step,
            epoch=float(epoch),
            samples=samples,
            world_size=self._ranks.world_size,
            created=utc_text(created),
            versions={"hftrain": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
            files=files,
        )

    # -------------------------------------------------------------------------------------------------------- cleaning

    def clean_up(self, best: str | None = None, *, at_end: bool = False) -> None:
        """Delete what is torn, if anything was committed since, and this run's surplus. The writer calls this.

        What is being written in the background is waited for.

        Args:
            best: path of the best checkpoint, never deleted.
            at_end: of training, where nothing was committed just now.
        """
        self.background.wait()
        self._clean_up(best, at_end=at_end)

    def _clean_up(self, best: str | None, *, at_end: bool = False) -> None:
        try:
            found = scan(self._storage, self.output_dir, known=self._known)
            in_use = (best, self._resumed_from, self._open_save.folder if self._open_save else None)
            going = self._keeping.going(
                found,
                run_id=self.run_id,
                newest=self._newest,
                best=name_of(plain_path(best)) if best else None,
                in_use={name_of(plain_path(path)) for path in in_use if path},
                at_end=at_end,
            )
            held = held_names(self._storage, self.output_dir, self.run_id) if going else ()
            for name in going:
                if name not in held:
                    self._remove(name)
        except (OSError, CheckpointError) as error:  # not knowing what may go is no reason to stop training
            logger.warning("%s was not cleaned up (%s). It will be after the next save.", self.output_dir, error)

    def _is_protected(self, name: str) -> bool:
        """Whether a user asked that it stays; looked at anew, for that may have been a moment ago."""
        return any(entry.name == PROTECTED for entry in self._storage.list(join(self.output_dir, name)))

    def _remove(self, name: str) -> None:
        folder = join(self.output_dir, name)
        try:
            if self._is_protected(name):
                return
            self._known.pop(name, None)
            remove_folder(self._storage, folder, run_id=self.run_id)
        except OSError as error:  # the new checkpoint is safe: that an old one stays is no reason to stop training
            logger.warning("%s could not be deleted (%s). It will be tried again after the next save.", folder, error)

    # -------------------------------------------------------------------------------------------------------- resuming

    def resolve(self, resume_from: bool | str | os.PathLike[str] | None) -> str | None:
        """The checkpoint that ``resume_from_checkpoint`` means; None to start afresh. All ranks must call this.

        The one it gives is verified, as far as ``verify`` asks; :meth:`open` will not read it twice.

        Raises:
            CheckpointNotFoundError: True and there is none, or a path where there is none.
            TornCheckpointError: a path to a torn one, and none was committed before it in this folder.
        """
        if not resume_from:
            return None
        finder = ResumeFinder(self._storage, self.output_dir, verify=self._verify)
        path = agreed(self._writers, finder, resume_from, place=self.output_dir)
        self._verified = self._resumed_from = path
        return path

    def open(self, path: str | os.PathLike[str]) -> CheckpointReader:
        """Open a checkpoint, verified. No collective.

        Raises:
            CheckpointNotFoundError, TornCheckpointError, UnsafeCheckpointError: as ``reader.open_checkpoint``.
        """
        path = plain_path(path)
        is_inside = path.startswith(self.output_dir + "/")
        level: Verification = "sizes" if path == self._verified else self._verify
        return open_any(path, verify=level, storage=self._storage if is_inside else None)

    # ------------------------------------------------------------------------------------------------------ collective

    def _on_writers(self, action: Callable[[], T]) -> T:
        """Run it on each folder's writer and give every rank its result, or its error. All ranks must call this."""
        return self._writers.run(action, place=self.output_dir)
