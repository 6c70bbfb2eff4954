"""Averaging gradients over the processes after all passes of a step, where DDP would do it within the last one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hftrain.errors import HardwareError

BUCKET_BYTES = 25 * 2**20
"""How much is sent at once; the copy that this takes is all the memory that averaging needs."""


def average_gradients(parameters: Sequence[nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES) -> None:
    """Replace each parameter's gradient by its mean over the processes, as DDP does. All ranks must call this.

    A process without a gradient that another has counts as zeros; one that nobody has stays None. It costs one host
    read, and the communication does not overlap with the backward as DDP's does.

    Raises:
        HardwareError: a gradient is sparse.
    """
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int64)
    place = parameters[0].device if dist.get_backend() != "gloo" else torch.device("cpu")
    present = present.to(place)
    dist.all_reduce(present, op=dist.ReduceOp.SUM)
    used = [parameter for parameter, count in zip(parameters, present.tolist(), strict=True) if count]
    with torch.no_grad():
        for bucket in _buckets(map(_gradient, used), bucket_bytes):
            _average(bucket)


def broadcast_buffers(buffers: Iterable[Tensor]) -> None:
    """Give every process the buffers of the first, as DDP does before a forward. All ranks must call this."""
    for buffer in buffers:
        dist.broadcast(buffer, src=0)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    if parameter.grad.is_sparse:
        raise HardwareError(
            "A gradient is sparse, and with auto_find_batch_size several processes average dense ones only. Make the "
            "embedding with sparse=False, or set auto_find_batch_size=False."
        )
    return parameter.grad


def _buckets(gradients: Iterable[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Group gradients of one type that follow each other, up to a size; a larger one stands alone."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        is_other = bool(bucket) and (gradient.dtype, gradient.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (is_other or size + gradient.nbytes > bucket_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket


def _average(bucket: list[Tensor]) -> None:
    joined = torch.cat([gradient.reshape(-1) for gradient in bucket]).div_(dist.get_world_size())
    dist.all_reduce(joined, op=dist.ReduceOp.SUM)
    means = torch.split(joined, [gradient.numel() for gradient in bucket])
    for gradient, mean in zip(bucket, means, strict=True):
        gradient.copy_(mean.view(gradient.shape))
