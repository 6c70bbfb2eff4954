"""Memory rows of a stage, as ``skip_memory_metrics=False`` asks: what it allocated and what it needed beside."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hftrain.hardware.memory import DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from hftrain.args.training import TrainingArguments

logger = logging.getLogger(__name__)

_BETWEEN_SAMPLES_S = 0.001


class StageMemory:
    """One stage being measured: the process's memory, sampled by a thread, and the device's own counters.

    The CPU's peak is the highest of samples taken every millisecond, so a shorter one may be missed.
    """

    def __init__(self, used: Callable[[], int], device: DeviceMemory) -> None:
        gc.collect()
        self._used, self._device = used, device
        device.start()
        self.cpu_at_start = self._cpu_peak = used()
        self.device_at_start = device.allocated()
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="hftrain-memory", daemon=True)
        self._sampler.start()
        self._rows: dict[str, int] | None = None

    def _sample(self) -> None:
        while not self._over.wait(_BETWEEN_SAMPLES_S):
            self._cpu_peak = max(self._cpu_peak, self._used())

    def end(self) -> dict[str, int]:
        """End the stage, once, and return bytes by what they are: ``cpu_alloc_delta`` and so on."""
        if self._rows is None:
            self._over.set()
            self._sampler.join()
            gc.collect()
            now = self._used()
            self._rows = {
                "cpu_alloc_delta": now - self.cpu_at_start,
                "cpu_peaked_delta": max(0, self._cpu_peak - now),
                **self._device_rows(),
            }
        return self._rows

    def _device_rows(self) -> dict[str, int]:
        if not self._device.is_counted:
            return {}
        now, peak = self._device.allocated(), self._device.peak()
        rows = {"gpu_alloc_delta": now - self.device_at_start}
        if peak is not None:
            rows["gpu_peaked_delta"] = max(0, peak - now)
        return rows


class MemoryTracker:
    """Measures the outermost of the stages init, train, eval and test; one inside another is part of that.

    Args:
        args: ``skip_memory_metrics`` switches everything off.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._args = args
        self._is_measuring = False
        self._init: StageMemory | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Measure while the context is open.

        Yields:
            What ends the measurement and adds its rows to a dict of metrics, those of the construction before it with
            the first stage that has any. It does nothing for a stage that is not measured.
        """
        used = None if self._args.skip_memory_metrics or self._is_measuring else self._memory_of_process
        if used is None:
            yield lambda metrics: None
            return
        self._is_measuring = True
        measured = StageMemory(used, DeviceMemory(self._args.device))
        try:
            yield lambda metrics: self._add(name, measured, metrics)
        finally:
            measured.end()
            self._is_measuring = False
        if name == "init":
            self._init = measured

    def _add(self, name: str, measured: StageMemory, metrics: dict[str, Any]) -> None:
        started, self._init = self._init, None
        if started is not None:
            metrics.update(_named("init", started.end()))
        metrics.update(_named(name, measured.end()))
        if started is not None:
            metrics["before_init_mem_cpu"] = started.cpu_at_start
            if any(row.startswith("gpu") for row in started.end()):
                metrics["before_init_mem_gpu"] = started.device_at_start

    @cached_property
    def _memory_of_process(self) -> Callable[[], int] | None:
        """What reads the resident bytes of this process; None, with a warning, without psutil."""
        try:
            import psutil
        except ImportError:
            logger.warning(
                "skip_memory_metrics=False needs the package psutil, which is not installed: no memory rows are added. "
                "Run `pip install psutil`, or set skip_memory_metrics=True."
            )
            return None
        process = psutil.Process()
        return lambda: int(process.memory_info().rss)


def _named(stage: str, rows: dict[str, int]) -> dict[str, int]:
    return {f"{stage}_mem_{row}": size for row, size in rows.items()}
