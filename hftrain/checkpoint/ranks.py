"""The processes of a run, which of them writes a folder that others read too, and errors that all of them hear of."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from hftrain.errors import CheckpointError

T = TypeVar("T")

_SYSTEM_ERROR = re.compile(r"\(os error \d+\)|inline_container\.cc")
"""So safetensors and torch.save, whose errors are no OSError, say that the system would not write."""


class StorageRefusedError(CheckpointError):
    """The storage refused, on some rank: nothing older was harmed, and what was asked of it may succeed later.

    It is raised on all ranks or on none.
    """


class Ranks(Protocol):
    """The processes of a run; hardware's engine is one."""

    @property
    def process_index(self) -> int:
        """This process, 0 for the one that decides."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    def barrier(self) -> None:
        """Wait for all."""

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Everyone gets what ``src`` has."""

    def gather_object(self, obj: Any) -> list[Any]:
        """Everyone gets everyone's, by rank."""


class Writers:
    """Which rank writes what the ranks of one folder have in common: the first of all, or the first of each node.

    Args:
        ranks: all processes.
        node_size: processes of a node, where each node has a folder of its own; None for one folder that all see.

    Attributes:
        first: the rank that writes this rank's folder.
        folder_ranks: the ranks that share it.
        num_folders: how many folders there are.
    """

    def __init__(self, ranks: Ranks, *, node_size: int | None = None) -> None:
        size = node_size or ranks.world_size
        self.ranks = ranks
        self.first = ranks.process_index // size * size
        self.folder_ranks = range(self.first, self.first + size)
        self.num_folders = ranks.world_size // size

    @property
    def is_writer(self) -> bool:
        """Whether it is this process."""
        return self.ranks.process_index == self.first

    def run(self, action: Callable[[], T], *, place: str) -> T:
        """Run it on every writer, and give every rank its writer's result, or an error. All ranks must call this.

        An error of one writer is an error on all ranks, a `StorageRefusedError` if its storage refused.
        """
        error: Exception | None = None
        result: Any = None
        if self.is_writer:
            try:
                result = action()
            except Exception as caught:  # raised below, when the other ranks know and no longer wait
                error = caught
        is_refused = error is not None and is_refusal(error)
        failure = None if error is None else (StorageRefusedError if is_refused else type(error), text_of(error))
        result, failures = self._told(result, failure)
        try:
            if error is not None and is_refused and not isinstance(error, StorageRefusedError):
                raise StorageRefusedError(f"{place}: {text_of(error)}.") from error
            if error is not None:
                raise error
        finally:
            error = None  # its traceback holds this frame: a cycle that would keep the whole run alive
        if failures:
            rank, (kind, text) = min(failures.items())
            raise kind(text) if issubclass(kind, CheckpointError) else CheckpointError(f"On rank {rank}: {text}")
        return result  # type: ignore[no-any-return]

    def _told(self, result: Any, failure: tuple[type, str] | None) -> tuple[Any, dict[int, tuple[type, str]]]:
        if self.num_folders == 1:
            result, failure = self.ranks.broadcast_object((result, failure))
            return result, {} if failure is None else {0: failure}
        told = self.ranks.gather_object((result, failure))
        return told[self.first][0], {rank: one for rank, (_, one) in enumerate(told) if one is not None}

    def of_each(self, value: T) -> list[T]:
        """What each folder's writer has, in the order of the folders. All ranks must call this."""
        if self.num_folders == 1:
            return [self.ranks.broadcast_object(value)]
        return self.ranks.gather_object(value)[:: len(self.folder_ranks)]


def is_refusal(error: BaseException) -> bool:
    """Whether the storage is to blame, directly or through a library that wraps what the system said."""
    if isinstance(error, CheckpointError):
        return isinstance(error, StorageRefusedError)
    return isinstance(error, OSError) or bool(_SYSTEM_ERROR.search(str(error)))


def text_of(error: BaseException) -> str:
    """An error in one line; ours say it themselves."""
    return str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
