"""A disk that a test holds up, and that refuses what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hftrain.checkpoint.storage import LocalStorage, Written


@dataclass
class SlowDisk(LocalStorage):
    """Files of the name ``held`` wait until ``open`` is set; writing ``refused`` fails as often as ``num_refusals``."""

    held: str = ""
    refused: str = ""
    num_refusals: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    threads: set[str] = field(default_factory=set)

    def write(self, path: str, chunks: Iterable[Any]) -> Written:
        self.threads.add(threading.current_thread().name)
        if self.refused and path.endswith(self.refused) and self.num_refusals:
            self.num_refusals -= 1
            raise OSError(5, "Input/output error")
        if self.held and path.endswith(self.held):
            return super().write(path, self._waiting(chunks))
        return super().write(path, chunks)

    def _waiting(self, chunks: Iterable[Any]) -> Iterable[Any]:
        for chunk in chunks:
            self.begun.set()
            assert self.open.wait(30)
            yield chunk
