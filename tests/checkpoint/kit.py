"""What the checkpoint tests share: ranks without processes, a storage that crashes, and tiny parts."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from hftrain.checkpoint.contents import Part, document_part, model_part
from hftrain.checkpoint.manager import CheckpointManager
from hftrain.checkpoint.storage import Entry, LocalStorage, Storage, Written


@dataclass
class OneProcess:
    """A run of one process."""

    process_index: int = 0
    world_size: int = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        return obj

    def gather_object(self, obj: Any) -> list[Any]:
        return [obj]


@dataclass
class ThreadRank:
    """One of several ranks that are threads of this process."""

    process_index: int
    world_size: int
    meeting: threading.Barrier
    table: list[Any]

    def barrier(self) -> None:
        self.meeting.wait(timeout=30)

    def gather_object(self, obj: Any) -> list[Any]:
        self.table[self.process_index] = obj
        self.barrier()
        gathered = list(self.table)
        self.barrier()
        return gathered

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        return self.gather_object(obj)[src]


def thread_ranks(world_size: int) -> list[ThreadRank]:
    meeting, table = threading.Barrier(world_size), [None] * world_size
    return [ThreadRank(rank, world_size, meeting, table) for rank in range(world_size)]


class Crash(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class CrashingStorage:
    """A disk that dies at the verb of number ``at``: in the middle, if it is a write or the removal of a folder."""

    at: int = 1 << 30
    inner: Storage = field(default_factory=LocalStorage)
    num_verbs: int = 0

    def _is_time(self) -> bool:
        self.num_verbs += 1
        if self.num_verbs > self.at + 1:
            raise Crash
        return self.num_verbs == self.at + 1

    def read(self, path: str) -> BinaryIO:
        if self._is_time():
            raise Crash
        return self.inner.read(path)

    def write(self, path: str, chunks: Iterable[Any]) -> Written:
        return self.inner.write(path, _half(chunks) if self._is_time() else chunks)

    def list(self, path: str) -> tuple[Entry, ...]:
        if self._is_time():
            raise Crash
        return self.inner.list(path)

    def delete(self, path: str) -> None:
        if self._is_time():
            for entry in self.inner.list(path)[:1]:
                self.inner.delete(f"{path}/{entry.name}")
            raise Crash
        self.inner.delete(path)


def _half(chunks: Iterable[Any]) -> Iterator[memoryview]:
    for chunk in chunks:
        raw = memoryview(chunk)
        yield raw[: len(raw) // 2]
        raise Crash


def manager(output_dir: Any, **settings: Any) -> CheckpointManager:
    return CheckpointManager(str(output_dir), **{"run_id": "run", "ranks": OneProcess(), **settings})


def parts(value: float = 0.0) -> list[Part]:
    """A model of one number, and the file that the reference knows a checkpoint by."""
    return [
        model_part({"weight": torch.tensor([value]), "bias": torch.zeros(2, 3)}),
        document_part("trainer_state", {"global_step": int(value)}),
    ]


def save(checkpoints: CheckpointManager, step: int, **settings: Any) -> str:
    return checkpoints.save(step, parts(step), **{"epoch": step / 10, "samples": step * 4, **settings})
