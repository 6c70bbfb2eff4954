from __future__ import annotations

import pytest
import torch

from hftrain.errors import CallbackError, TaskError
from hftrain.hardware.memory import DeviceMemory, is_out_of_memory


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("anything"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (caused(TaskError("the first batch"), RuntimeError("CUDA out of memory")), True),
        (caused(TaskError("the first batch"), RuntimeError("another")), False),
        (caused(CallbackError("out of memory"), torch.OutOfMemoryError()), False),
    ],
)
def test_an_error_that_says_so_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_allocation_that_is_too_large_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_cpu_has_no_counters() -> None:
    memory = DeviceMemory(torch.device("cpu"))
    memory.start()
    assert (memory.is_counted, memory.allocated(), memory.peak()) == (False, 0, None)
