"""Workers of a loader, and the signals that are meant for the process which they load for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


def keep_workers_from_signals(loader: object) -> None:
    """Have a loader's workers ignore what tells a run to stop: it reaches them too when a whole group is told.

    Their own process saves and ends them. A loader without workers, or whose workers know already, stays as it is.
    """
    if not isinstance(loader, DataLoader) or loader.num_workers == 0:
        return
    if not isinstance(loader.worker_init_fn, DeafWorker):
        loader.worker_init_fn = DeafWorker(loader.worker_init_fn)


class DeafWorker:
    """Starts a worker that hears signals only from its parent.

    Args:
        then: the loader's own ``worker_init_fn``, called after.
    """

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Start the worker; called in it."""
        ignore_signals_of_others()
        if self.then is not None:
            self.then(worker_id)


def ignore_signals_of_others() -> None:
    """Ignore SIGINT, SIGUSR1, and SIGTERM unless the parent sends it, which is how a loader ends a worker that hangs.

    For a child process; call it in its main thread before it starts others.
    """
    asked: set[Any] = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
    if not hasattr(signal, "sigwaitinfo"):
        for number in asked - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
        return
    # Blocked rather than ignored: only then does somebody learn who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    threading.Thread(target=_wait_for_parent, args=(asked, os.getppid()), daemon=True).start()


def _wait_for_parent(asked: set[Any], parent: int) -> None:
    while True:
        heard = signal.sigwaitinfo(asked)  # type: ignore[attr-defined,unused-ignore]
        if heard.si_signo == signal.SIGTERM and heard.si_pid == parent:
            os._exit(128 + signal.SIGTERM)
