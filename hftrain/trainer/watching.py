"""Histograms of gradients and parameters, for the trackers that ask for them."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hftrain.plugin_api.tracker import GRADIENTS, HISTOGRAMS, PARAMETERS
from hftrain.types.callback import TrainerCallback

if TYPE_CHECKING:
    from hftrain.callbacks.tracking import Tracking

logger = logging.getLogger(__name__)

NUM_BINS = 64
_FEWEST_STEPS = 100
"""Between two of them, however often rows are logged: each costs a pass over all that is watched."""

_PIECE = 1 << 22
"""Elements that are counted at once: about 30 bytes each are needed for that."""


def watching_for(tracking: Tracking) -> list[WatchedTensors]:
    """Return the callback that tells trackers what they watch; none where nobody does."""
    kinds = tracking.watched()
    return [WatchedTensors(kinds, tracking)] if kinds else []


class WatchedTensors(TrainerCallback):
    """Tells how gradients and parameters are distributed, before a step of the optimizer.

    They are counted on the device and read from it together: once in ``max(100, logging_steps)`` steps, and never
    between. Gradients are what the optimizer takes, summed over a step's micro-batches and clipped. Where a model is
    sharded, they are of the part that the reporting process has.

    Args:
        kinds: "gradients", "parameters" or both.
        tracking: that is told.
    """

    def __init__(self, kinds: Collection[str], tracking: Tracking) -> None:
        self._kinds = tuple(kind for kind in (GRADIENTS, PARAMETERS) if kind in kinds)
        self._tracking = tracking
        self._is_off = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Tell them where that is due."""
        step = state.global_step + 1  # that is being made
        if step % max(_FEWEST_STEPS, int(args.logging_steps)) or not self._tracking.is_begun or self._is_off:
            return
        for kind in self._kinds:
            self._tell(kind, dict(_tensors(model, kind)), step=step, epoch=state.epoch)

    def _tell(self, kind: str, tensors: dict[str, Tensor], *, step: int, epoch: float | None) -> None:
        if self._is_off or not tensors:
            return
        below = f"media/{kind}-{step}.npz"
        path = os.path.join(self._tracking.folder(), *below.split("/"))
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_histograms(tensors, path)
        except OSError as error:
            logger.warning("%s cannot be written (%s). Training goes on without it.", path, error)
            return
        except RuntimeError as error:  # no memory is left on the device, or it cannot do this
            self._is_off = True
            logger.warning(
                "Gradients and parameters are not watched any more (%s). Training goes on.",
                str(error).partition("\n")[0],
            )
            return
        self._tracking.report("media", step=step, epoch=epoch, data={"name": kind, "kind": HISTOGRAMS, "path": below})


def write_histograms(tensors: dict[str, Tensor], path: str) -> None:
    """Write the histogram of each tensor into one ``.npz``.

    It holds ``names`` (n), ``counts`` (n, `NUM_BINS`) and ``edges`` (n, `NUM_BINS` + 1). Values that are not finite are
    left out. Everything is read from the device at once.
    """
    import numpy as np

    counted = [_counted(tensor) for tensor in tensors.values()]
    counts = torch.stack([counts for counts, _ in counted])
    ends = torch.stack([ends for _, ends in counted])
    read = torch.cat([counts, ends], dim=1).cpu().double().numpy()
    counts_read, low, high = read[:, :NUM_BINS], read[:, NUM_BINS, None], read[:, NUM_BINS + 1, None]
    edges = low + (high - low) * np.linspace(0.0, 1.0, NUM_BINS + 1)
    np.savez_compressed(path, names=np.array(list(tensors)), counts=counts_read.astype(np.int64), edges=edges)


def _counted(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the counts of the bins (NUM_BINS) and the two ends of their range (2), on the tensor's device.

    It is done in pieces: what it needs beside the tensor is that of one piece, however large the tensor is.
    """
    pieces = torch.split(tensor.reshape(-1), _PIECE)
    ends = [_ends(piece) for piece in pieces]
    low = torch.stack([low for low, _ in ends]).amin()
    high = torch.stack([high for _, high in ends]).amax()
    is_empty = low > high  # nothing is finite
    low = torch.where(is_empty, 0.0, low)
    high = torch.where(is_empty | (high == low), low + 1, high)
    counts = torch.zeros(NUM_BINS, device=tensor.device, dtype=torch.long)
    for piece in pieces:
        values = piece.float()
        is_finite = torch.isfinite(values)
        bins = (torch.where(is_finite, values, low) - low) / (high - low) * NUM_BINS
        counts.scatter_add_(0, bins.long().clamp(0, NUM_BINS - 1), is_finite.long())
    return counts.float(), torch.stack([low, high])


def _ends(piece: Tensor) -> tuple[Tensor, Tensor]:
    values = piece.float()
    is_finite = torch.isfinite(values)
    return torch.where(is_finite, values, torch.inf).amin(), torch.where(is_finite, values, -torch.inf).amax()


def _tensors(model: nn.Module, kind: str) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        tensor = parameter.grad if kind == GRADIENTS else parameter
        if tensor is None or not parameter.requires_grad:
            continue
        to_local = getattr(tensor, "to_local", None)  # of a sharded one
        local: Tensor = tensor if to_local is None else to_local()
        local = local.detach().to_dense() if local.is_sparse else local.detach()
        if local.numel():
            yield name, local
