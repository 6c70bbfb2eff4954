"""Talking to the other processes: sums, padded gathers, objects, barriers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hftrain.errors import HardwareError
from hftrain.hardware.tree import map_tree

if TYPE_CHECKING:
    from lightning_fabric.strategies.strategy import Strategy

T = TypeVar("T")

# What every backend gathers as it is; the rest (bool, bf16, fp16, int8, ...) travels as bytes.
_PLAIN_DTYPES = (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8)


class Collectives(Protocol):
    """What processes do together. All ranks must call each of these."""

    def reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks."""

    def gather(self, tree: Any) -> Any:
        """Concatenate the tensors of all ranks along dimension 0, in rank order."""

    def gather_object(self, obj: T) -> list[T]:
        """The objects of all ranks, in rank order."""

    def broadcast_object(self, obj: T, src: int = 0) -> T:
        """The object of rank ``src``."""

    def scatter_object(self, objects: list[T] | None) -> T:
        """This rank's of the objects that rank 0 passes, one for each rank; the others pass None."""

    def barrier(self) -> None:
        """Wait until every rank is here."""


class Alone:
    """One process: every collective is the identity, except that a 0-d tensor is gathered to shape (1,)."""

    def reduce_sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gather(self, tree: Any) -> Any:
        """The tree itself, 0-d tensors as 1-d ones."""
        return map_tree(tree, _at_least_1d)

    def gather_object(self, obj: T) -> list[T]:
        """A list of the one object."""
        return [obj]

    def broadcast_object(self, obj: T, src: int = 0) -> T:
        """The object itself."""
        return obj

    def scatter_object(self, objects: list[T] | None) -> T:
        """The one object."""
        assert objects is not None
        return objects[0]

    def barrier(self) -> None:
        """Nothing to wait for."""


class Together:
    """Several processes, through the process group that exists.

    Objects and the barrier go through Fabric's strategy. Sums and gathers do not: its all_reduce rounds int64 through
    float and waits at a barrier first, and its all_gather returns wrong data or aborts when sizes differ.
    """

    def __init__(self, strategy: Strategy, device: torch.device) -> None:
        """Use the strategy's process group; ``device`` is where the backend wants its tensors."""
        self._strategy = strategy
        self._device = torch.device("cpu") if dist.get_backend() == "gloo" else device
        self._world_size = dist.get_world_size()

    def reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, out of place, in float64 or int64. The result lies where the tensor lay."""
        wide = torch.float64 if tensor.is_floating_point() else torch.int64
        total = tensor.detach().to(device=self._device, dtype=wide, copy=True)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total.to(tensor.device)

    def gather(self, tree: Any) -> Any:
        """Concatenate the tensors of all ranks along dimension 0, in rank order; sizes may differ between ranks.

        The sizes of all tensors are exchanged first (one read by the host), then each tensor is padded to the
        longest, gathered and trimmed. Every rank must pass the same structure, dtypes and other dimensions.

        Raises:
            HardwareError: something in the tree is neither a tensor nor None.
        """
        leaves: list[Tensor] = []

        def collect(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                raise HardwareError(
                    f"gather takes tensors, found {type(leaf).__name__}. Use gather_object for other objects."
                )
            leaves.append(_at_least_1d(leaf.detach()))
            return leaf

        map_tree(tree, collect)
        if not leaves:
            return tree
        gathered = iter([self._gather(leaf, sizes) for leaf, sizes in zip(leaves, self._sizes(leaves), strict=True)])
        return map_tree(tree, lambda _: next(gathered))

    def gather_object(self, obj: T) -> list[T]:
        """The objects of all ranks, in rank order. They are pickled on the way, between our own processes only."""
        objects: list[Any] = [None] * self._world_size
        dist.all_gather_object(objects, obj)
        return objects

    def broadcast_object(self, obj: T, src: int = 0) -> T:
        """The object of rank ``src``."""
        sent: T = self._strategy.broadcast(obj, src)
        return sent

    def scatter_object(self, objects: list[T] | None) -> T:
        """This rank's of the objects that rank 0 passes; pickled on the way, between our own processes only."""
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, objects, src=0)
        received: T = mine[0]
        return received

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self._strategy.barrier()

    def _sizes(self, leaves: list[Tensor]) -> list[list[int]]:
        mine = torch.tensor([leaf.shape[0] for leaf in leaves], dtype=torch.int64, device=self._device)
        everyone = [torch.empty_like(mine) for _ in range(self._world_size)]
        dist.all_gather(everyone, mine)
        by_leaf: list[list[int]] = torch.stack(everyone, dim=1).tolist()
        return by_leaf

    def _gather(self, leaf: Tensor, sizes: list[int]) -> Tensor:
        longest = max(sizes)
        source = leaf.to(self._device).contiguous()
        if source.shape[0] < longest:
            padded = source.new_zeros((longest, *source.shape[1:]))
            padded[: source.shape[0]] = source
            source = padded
        travels_as_bytes = source.dtype not in _PLAIN_DTYPES and source.numel() > 0
        sent = source.view(-1).view(torch.uint8) if travels_as_bytes else source
        received = [torch.empty_like(sent) for _ in range(self._world_size)]
        dist.all_gather(received, sent)
        parts = [part.view(source.dtype).view(source.shape) if travels_as_bytes else part for part in received]
        joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return joined.to(leaf.device)


def _at_least_1d(leaf: Any) -> Any:
    return leaf.reshape(1) if isinstance(leaf, Tensor) and leaf.ndim == 0 else leaf
