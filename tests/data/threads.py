"""Ranks as threads, for what processes hand each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any


class ThreadExchange:
    """One rank's end; ``shared`` is the same list on all ranks."""

    def __init__(self, rank: int, barrier: Barrier, shared: list[Any]) -> None:
        self.rank, self._barrier, self._shared = rank, barrier, shared

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        return self._swap(obj if self.rank == src else None, lambda: self._shared[0])

    def scatter_object(self, objects: list[Any] | None) -> Any:
        return self._swap(objects, lambda: self._shared[0][self.rank])

    def _swap(self, given: Any, take: Callable[[], Any]) -> Any:
        if given is not None:
            self._shared[:] = [given]
        self._barrier.wait(30)
        taken = take()
        self._barrier.wait(30)
        return taken


def in_ranks(function: Callable[[ThreadExchange], Any], world: int) -> list[Any]:
    """Call ``function(exchange)`` on every rank at once; return what each returned."""
    barrier, shared = Barrier(world), []
    with ThreadPoolExecutor(world) as ranks:
        ends = [ThreadExchange(rank, barrier, shared) for rank in range(world)]
        return [done.result() for done in [ranks.submit(function, end) for end in ends]]
