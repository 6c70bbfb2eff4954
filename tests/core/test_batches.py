from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from hftrain.core.batches import batch_size, describe_batch


@dataclass
class Pair:
    x: torch.Tensor
    name: str


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        ({"scale": torch.tensor(1.0), "x": torch.zeros(5)}, 5),
        ([("a", torch.zeros(4))], 4),
        (Pair(torch.zeros(6), "p"), 6),
        ("text", 1),
    ],
)
def test_the_first_tensor_with_a_dimension_gives_the_size(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


def test_a_batch_is_described_by_keys_types_and_shapes() -> None:
    batch = {"x": torch.zeros(2, 3), "y": [torch.zeros(2, dtype=torch.int64), "text"]}
    assert describe_batch(batch) == "{'x': float32[2, 3], 'y': [int64[2], str]}"


def test_a_long_batch_is_described_briefly() -> None:
    assert describe_batch([torch.zeros(1)] * 20).endswith("and 12 more]")
