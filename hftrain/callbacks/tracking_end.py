"""The end of a reported run: trackers are told, and waited for, by whoever ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hftrain.callbacks.hooks import Hooks
from hftrain.callbacks.warned import Warned
from hftrain.plugin_api.spool import Event, Spool
from hftrain.plugin_api.worker import Delivery

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a run that is reported holds open."""

    spool: Spool
    warned: Warned
    hooks: Hooks
    deliveries: Sequence[Delivery]


def close(spool: Spool, deliveries: Sequence[Delivery], finish: Event, close_s: float, hooks: Hooks) -> list[str]:
    """Tell the end, wait at most ``close_s`` seconds, and return the trackers that were not told everything."""
    for delivery in deliveries:
        delivery.offer(finish)
    spool.sync()
    until = time.monotonic() + close_s  # of all together
    left = []
    for delivery in deliveries:
        if not delivery.close(timeout_s=max(0.0, until - time.monotonic())):
            left.append(delivery.name)
            logger.warning(
                "%s was not told the last %d events of the run. Run: hftrain replay %s --to %s",
                delivery.name,
                delivery.num_left,
                spool.folder,
                delivery.name,
            )
    spool.close()
    hooks.put_back()
    return left


def end_forgotten(run: Reporting, *, step: int, close_s: float) -> None:
    """End the run of a forgotten Trainer. The collector may do so in the middle of a step: nobody waits for it then."""
    spool = run.spool

    def end() -> None:
        try:
            run.warned.close()
            finish = spool.append("finish", step=step, data={"status": "finished", "error": None})
            close(spool, run.deliveries, finish, close_s, run.hooks)
        finally:
            _ending.pop(spool.folder, None)

    if not spool.is_ours:
        return
    # At the process's exit the main thread counts as ended; threads are refused then, or not waited for.
    if not threading.main_thread().is_alive():
        end()
        return
    thread = _ending[spool.folder] = threading.Thread(target=end, name="hftrain-end-of-run")
    try:
        thread.start()
    except RuntimeError:  # no more of them
        end()


_ending: dict[str, threading.Thread] = {}
"""What ends runs of forgotten Trainers, by the run's folder."""


def wait_for_end_of(folder: str, close_s: float) -> None:
    """Wait for what still ends this run: two must not write one record."""
    thread = _ending.get(folder)
    if thread is not None and thread is not threading.current_thread():
        thread.join(close_s)
