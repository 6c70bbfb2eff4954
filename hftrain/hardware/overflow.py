"""Finding the module in which numbers overflow: ``debug="underflow_overflow"``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hftrain.errors import TaskError
from hftrain.hardware.tree import leaves

NUM_FRAMES = 21
"""How many modules a report shows: the one with the first inf or nan, and those that ran before it."""


@dataclass
class Frame:
    """One call of one module: smallest and largest absolute value of each tensor, on its device."""

    name: str
    kind: str
    labels: list[str] = field(default_factory=list)
    lows: list[Tensor] = field(default_factory=list)
    highs: list[Tensor] = field(default_factory=list)

    def add(self, label: str, tensor: Tensor) -> None:
        """Note a tensor's statistics; one without elements or of integers has none."""
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return
        low, high = torch.aminmax(tensor.detach().abs().float())
        self.labels.append(label)
        self.lows.append(low)
        self.highs.append(high)


@contextmanager
def overflow_monitor(module: nn.Module) -> Iterator[None]:
    """Watch weights, positional inputs and outputs of every part of ``module`` for inf and nan in the block.

    Costs the statistics of each, and one host read for each call of an outermost part; nothing is left behind.

    Raises:
        TaskError: there is one. It names the module and shows the statistics of the last modules that ran.
    """
    monitor = _Monitor()
    try:
        for name, part in module.named_modules():
            monitor.watch(name or "(the model)", part)
        yield
    finally:
        monitor.remove()


class _Monitor:
    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._depth = 0
        self._handles: list[RemovableHandle] = []

    def watch(self, name: str, part: nn.Module) -> None:
        def enter(part: nn.Module, inputs: Any) -> None:
            self._depth += 1

        def leave(part: nn.Module, inputs: Any, outputs: Any) -> None:
            self._depth -= 1
            frame = Frame(name, type(part).__name__)
            for label, weight in part.named_parameters(recurse=False):
                frame.add(label, weight)
            for label, tree in (("input", inputs), ("output", outputs)):
                for index, tensor in enumerate(_tensors(tree)):
                    frame.add(f"{label}[{index}]", tensor)
            self._frames.append(frame)
            if self._depth == 0:
                self._check()

        # always_call: a part that raised has been left as well.
        self._handles.append(part.register_forward_pre_hook(enter))
        self._handles.append(part.register_forward_hook(leave, always_call=True))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _check(self) -> None:
        frames, self._frames = self._frames, []
        highs = [high for frame in frames for high in frame.highs]
        if not highs or bool(torch.stack([high.to(highs[0].device) for high in highs]).isfinite().all()):
            return
        _report(frames)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def _report(frames: list[Frame]) -> NoReturn:
    last = next(i for i, frame in enumerate(frames) if not all(map(torch.isfinite, frame.highs)))
    culprit = frames[last]
    label = next(text for text, high in zip(culprit.labels, culprit.highs, strict=True) if not torch.isfinite(high))
    shown = frames[max(0, last + 1 - NUM_FRAMES) : last + 1]
    rows = [f"{'smallest':>10} {'largest':>10}  absolute values, the last {len(shown)} modules that ran"]
    for frame in shown:
        rows.append(f"  {frame.name} ({frame.kind})")
        for text, low, high in zip(frame.labels, frame.lows, frame.highs, strict=True):
            rows.append(f"{float(low):>10.2e} {float(high):>10.2e}  {text}")
    raise TaskError(
        f"debug='underflow_overflow' found inf or nan in {label} of {culprit.name} ({culprit.kind}). Lower the "
        "learning rate, train in bf16 or fp32, or look at the first row that grows:\n" + "\n".join(rows)
    )
