from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader

from hftrain.data.workers import DeafWorker, ignore_signals_of_others, keep_workers_from_signals


class FromOthers:
    """Each sample is fetched by a worker that somebody else sends a signal first."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self.number)
        time.sleep(0.05)
        return index


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_workers_go_on_when_others_are_told_to_stop(number: int) -> None:
    loader: DataLoader[Any] = DataLoader(FromOthers(number), num_workers=1)  # type: ignore[arg-type]
    keep_workers_from_signals(loader)
    assert [int(batch) for batch in loader] == [0, 1, 2, 3]


def test_the_loaders_own_start_of_a_worker_is_kept() -> None:
    def own(worker_id: int) -> None: ...

    loader: DataLoader[Any] = DataLoader([1], num_workers=1, worker_init_fn=own)  # type: ignore[arg-type]
    for _ in range(2):
        keep_workers_from_signals(loader)
    assert isinstance(loader.worker_init_fn, DeafWorker)
    assert loader.worker_init_fn.then is own


def _hang(ready: Any) -> None:
    ignore_signals_of_others()
    ready.set()
    time.sleep(60)


def test_the_parent_still_ends_a_worker_that_hangs() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=_hang, args=(ready,), daemon=True)
    child.start()
    assert ready.wait(30)
    child.terminate()
    child.join(30)
    assert child.exitcode == 143
