"""A checkpoint that is written while training goes on: one thread a process, and all hear of its end at one step."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from hftrain.checkpoint.ranks import is_refusal, text_of
from hftrain.checkpoint.storage import Entry, Repeatable, Storage, Written
from hftrain.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_AFTER_S = 0.5
_POLL_S = 0.005
_BETWEEN_CHECKS_S = 0.25
"""Several processes ask about every so often whether the write is over; in between a step costs them nothing."""
_PATIENCE_S = 1800.0
"""How long a process waits for another one's note: as long as collectives do by default."""


class Notes(Protocol):
    """What processes leave for each other without waiting; hardware's notes are such."""

    def put(self, name: str, text: str) -> None:
        """Leave a note."""

    def read(self, name: str) -> str | None:
        """Return a note, or None as long as nobody left it."""

    def remove(self, name: str) -> None:
        """Take a note away."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a write ended: the folder is committed, or ``error`` says why it is not.

    Attributes:
        is_refusal: whether some rank's storage refused, so that a later save may succeed. The same on all ranks.
    """

    folder: str
    error: CheckpointError | None = None
    is_refusal: bool = False


class WriteStoppedError(Exception):
    """Nobody wants the rest of what is being written."""


@dataclass(frozen=True, kw_only=True)
class WritePlan:
    """What the threads do.

    Attributes:
        folder: the checkpoint's.
        write: writes this rank's files into the storage it is given; may be called a second time.
        commit: on rank 0, given what all ranks wrote; may be called a second time.
        settled: on rank 0, told whether the commit happened: cleans up.
    """

    folder: str
    write: Callable[[Storage], dict[str, Written]]
    commit: Callable[[dict[str, Written]], None]
    settled: Callable[[bool], None]


class BackgroundWrite:
    """One checkpoint being written by this process's thread.

    Each rank writes its files, once more if its storage refused, and leaves a note of what it wrote; rank 0 commits
    when it has all of them, and leaves a note of how it ended. No collective is used. All ranks must make one.

    Args:
        plan: what to do.
        storage: where.
        notes: how the processes tell each other.
        name: of this write, the same on all ranks and no other write's.
        rank: this process.
        world_size: how many there are.
        step: at which the write began.
    """

    def __init__(
        self, plan: WritePlan, *, storage: Storage, notes: Notes, name: str, rank: int, world_size: int, step: int
    ) -> None:
        self.folder = plan.folder
        self._notes = notes
        self._name = name
        self._rank = rank
        self._world_size = world_size
        self._stop = threading.Event()
        self._storage = StoppableStorage(storage, self._stop)
        self._error: Exception | None = None
        self._is_refusal = False
        self._next_check = step + 1
        self._checked = (step, time.monotonic())
        self._left: list[str] = []
        # A daemon: a storage that hangs must not keep an interrupted process alive.
        self._thread = threading.Thread(target=self._run, args=(plan,), name="hftrain-checkpoint", daemon=True)
        self._thread.start()

    # ---- asked by the loop --------------------------------------------------------------------------

    def is_over(self, step: int) -> bool:
        """Whether the write has ended, the same answer on all ranks. All ranks must ask at the same steps.

        Several processes take rank 0's answer, which says also at which step they ask again.
        """
        if self._world_size == 1:
            return not self._thread.is_alive()
        if step < self._next_check:
            return False
        name = f"{self._name}/at-{step}"
        if self._rank == 0:
            self._leave(name, {"is_over": not self._thread.is_alive(), "next": step + self._steps_between(step)})
        answer = json.loads(self._wait_for(name))
        self._next_check = answer["next"]
        return bool(answer["is_over"])

    def outcome(self) -> Outcome:
        """Wait for the end and say how it was. All ranks must call this."""
        self._thread.join()
        error = self._error
        if self._rank != 0:
            end = json.loads(self._wait_for(f"{self._name}/end"))
            error = error or (CheckpointError(end["error"]) if end["error"] is not None else None)
            self._is_refusal = end["is_refusal"]
        if error is None:
            return Outcome(folder=self.folder)
        if isinstance(error, CheckpointError):
            return Outcome(folder=self.folder, error=error, is_refusal=self._is_refusal)
        told = CheckpointError(f"{self.folder} could not be written ({text_of(error)}). Older ones are untouched.")
        told.__cause__ = error
        return Outcome(folder=self.folder, error=told, is_refusal=self._is_refusal)

    def wait(self) -> None:
        """Wait for this process's thread. No collective."""
        self._thread.join()

    def close(self, *, patience_s: float | None = None) -> None:
        """Wait for this process's thread, at most so long; then stop it, as soon as its storage answers. No collective.

        What it was writing is either committed by then or torn.
        """
        self._thread.join(patience_s)
        self._stop.set()
        self._thread.join(1.0)

    def forget_notes(self) -> None:
        """Take this process's notes away; every process must have read them."""
        for name in self._left:
            self._notes.remove(name)
        self._left.clear()

    # ---- the thread ---------------------------------------------------------------------------------

    def _run(self, plan: WritePlan) -> None:
        try:
            written = self._twice(lambda: plan.write(self._storage))
            mine = {path: asdict(one) for path, one in written.items()}
            self._leave(f"{self._name}/{self._rank}", {"written": mine})
            if self._rank == 0:
                everything = self._written_by_all()
                self._twice(lambda: plan.commit(everything))
        except Exception as error:  # kept for the loop, which raises it at its next step
            self._error = error
            self._is_refusal = self._is_refusal or is_refusal(error)
            if self._rank != 0:
                note = {"error": text_of(error), "is_refusal": self._is_refusal}
                self._leave(f"{self._name}/{self._rank}", note)
        if self._rank == 0:
            self._end(plan)

    def _end(self, plan: WritePlan) -> None:
        try:
            if self._error is not None:
                self._wait_for_others()
            plan.settled(self._error is None)
        except Exception as error:
            logger.warning("After %s was written, old checkpoints could not be looked through: %s", self.folder, error)
        text = None if self._error is None else f"On rank 0: {text_of(self._error)}"
        self._leave(f"{self._name}/end", {"error": text, "is_refusal": self._is_refusal})

    def _wait_for_others(self) -> None:
        """Wait until no rank writes: what comes into a folder after its removal would make it anew, and stay."""
        with suppress(WriteStoppedError, CheckpointError):  # why this save failed is known, and told, already
            for rank in range(1, self._world_size):
                self._wait_for(f"{self._name}/{rank}")

    def _written_by_all(self) -> dict[str, Written]:
        written: dict[str, Written] = {}
        for rank in range(self._world_size):
            note = json.loads(self._wait_for(f"{self._name}/{rank}"))
            if "error" in note:
                self._is_refusal = note["is_refusal"]
                raise CheckpointError(
                    f"{self.folder} could not be written (rank {rank}: {note['error']}). Older checkpoints are "
                    "untouched."
                )
            written |= {path: Written(**one) for path, one in note["written"].items()}
        return written

    def _twice(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:
            if not is_refusal(error):
                raise
            logger.warning("%s: %s. It is tried once more.", self.folder, text_of(error))
            self._stop.wait(_RETRY_AFTER_S)
            return action()

    # ---- notes --------------------------------------------------------------------------------------

    def _steps_between(self, step: int) -> int:
        since_step, since = self._checked
        self._checked = (step, time.monotonic())
        took = max(self._checked[1] - since, 1e-6)
        return max(1, int(_BETWEEN_CHECKS_S * (step - since_step) / took))

    def _leave(self, name: str, document: object) -> None:
        self._left.append(name)
        self._notes.put(name, json.dumps(document))

    def _wait_for(self, name: str) -> str:
        until = time.monotonic() + _PATIENCE_S
        while (text := self._notes.read(name)) is None:
            if self._stop.is_set():
                raise WriteStoppedError(f"{self.folder} is not wanted any more.")
            if time.monotonic() > until:
                raise CheckpointError(f"{self.folder}: another process has not been heard of in {_PATIENCE_S:g} s.")
            time.sleep(_POLL_S)
        return text


class StoppableStorage:
    """A storage that refuses every verb, and the rest of a file, once it is told to stop."""

    def __init__(self, storage: Storage, stop: threading.Event) -> None:
        self._storage = storage
        self._stop = stop

    def read(self, path: str) -> BinaryIO:
        """Open a file."""
        self._go_on()
        return self._storage.read(path)

    def write(self, path: str, chunks: Iterable[Buffer]) -> Written:
        """Write a file, as far as it is wanted."""
        wanted = self._wanted(chunks) if iter(chunks) is chunks else Repeatable(lambda: self._wanted(chunks))
        return self._storage.write(path, wanted)

    def list(self, path: str) -> tuple[Entry, ...]:
        """List a folder."""
        self._go_on()
        return self._storage.list(path)

    def delete(self, path: str) -> None:
        """Remove a file or a folder."""
        self._go_on()
        self._storage.delete(path)

    def _wanted(self, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
        for chunk in chunks:
            self._go_on()
            yield chunk

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise WriteStoppedError("The rest is not wanted any more.")
