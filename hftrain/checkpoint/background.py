"""Saves of one run that are written while training goes on: one at a time, and its end is heard at a step."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from hftrain.checkpoint.background_write import BackgroundWrite, Notes, Outcome, WritePlan
from hftrain.checkpoint.ranks import Ranks
from hftrain.checkpoint.saving import CheckpointSave
from hftrain.checkpoint.staging import HostBuffers, StagedParts
from hftrain.checkpoint.storage import Storage
from hftrain.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InBackground:
    """How a save is written while training goes on.

    Attributes:
        notes: how the processes tell each other.
        cleans_up: whether what is surplus goes right after the commit; else the caller sees to it.
        best: gives the path of the best checkpoint, asked when the copies are made.
    """

    notes: Notes
    cleans_up: bool = True
    best: Callable[[], str | None] = lambda: None


class BackgroundSaves:
    """At most one save that is being written, and the memory for copies of the next one."""

    def __init__(self, storage: Storage, ranks: Ranks) -> None:
        self._storage = storage
        self._ranks = ranks
        self._buffers = HostBuffers()
        self._asked: InBackground | None = None
        self._writing: BackgroundWrite | None = None
        self._ended: BackgroundWrite | None = None
        """Its notes are taken away when all ranks have read them."""
        self.unmended: CheckpointError | None = None
        """Why the last save failed, until a later one is committed."""

    @contextmanager
    def asked_for(self, how: InBackground) -> Iterator[None]:
        """Have a save that begins inside the context written in the background. All ranks must enter this."""
        self._asked = how
        try:
            yield
        finally:
            self._asked = None

    @property
    def is_writing(self) -> bool:
        """Whether there is a save whose outcome nobody has asked for."""
        return self._writing is not None

    @property
    def buffer_bytes(self) -> int:
        """Host memory that is held for copies."""
        return self._buffers.num_bytes

    def reserve(self, tensors: Iterable[Tensor]) -> None:
        """Take the memory for this process's copies of such tensors while training goes on, ahead of the first save."""
        self._buffers.reserve(tensors)

    def stage(self, max_shard_bytes: int) -> StagedParts | None:
        """Return where to copy the parts of the save that begins; None if it is to be written at once."""
        if self._asked is None:
            return None
        return StagedParts(self._buffers, rank=self._ranks.process_index, max_shard_bytes=max_shard_bytes)

    def start(self, save: CheckpointSave, parts: StagedParts, *, clean_up: Callable[[str | None], None]) -> None:
        """Start the thread that writes what was copied. All ranks must call this."""
        how = self._asked
        assert how is not None  # it was when the save began
        parts.end()
        if self._ended is not None:
            self._ended.forget_notes()
            self._ended = None
        best, cleans_up = how.best(), how.cleans_up

        def settled(is_committed: bool) -> None:
            if not is_committed:
                save.discard()
                return
            save.note_commit()
            if cleans_up:
                clean_up(best)

        self._writing = BackgroundWrite(
            WritePlan(folder=save.folder, write=save.write_copies, commit=save.commit, settled=settled),
            storage=self._storage,
            notes=how.notes,
            name=self._ranks.broadcast_object(secrets.token_hex(8)),
            rank=self._ranks.process_index,
            world_size=self._ranks.world_size,
            step=save.step,
        )

    def outcome(self, step: int, *, wait: bool = False) -> Outcome | None:
        """How the save ended, once; None if there is none, or it goes on.

        All ranks must ask after the same steps, and get the answer after the same step.

        Args:
            step: optimizer steps done.
            wait: until it ended.
        """
        writing = self._writing
        if writing is None or not (wait or writing.is_over(step)):
            return None
        outcome = writing.outcome()
        self._writing, self._ended = None, writing
        self.unmended = outcome.error
        return outcome

    def raise_outcome(self) -> None:
        """Wait for the save that is being written, if there is one. Raises its error. All ranks must call this."""
        outcome = self.outcome(0, wait=True)
        if outcome is not None and outcome.error is not None:
            raise outcome.error

    def wait(self) -> None:
        """Wait until this process writes nothing. No collective."""
        if self._writing is not None:
            self._writing.wait()

    def stop(self, *, patience_s: float | None = None) -> None:
        """End this process's share of the save, at most after so long. No collective.

        Its folder is committed then, or torn. For the end of a run that failed.
        """
        self._buffers.stop_reserving()
        if self._writing is not None:
            self._writing.close(patience_s=patience_s)
            self._writing = None
