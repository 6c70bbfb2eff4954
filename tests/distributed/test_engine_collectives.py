"""Collectives of the engine in two gloo processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hftrain.errors import HardwareError
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings
from tests.distributed.launch import launch

pytestmark = pytest.mark.slow

DTYPES = {
    "bool": torch.bool,
    "int8": torch.int8,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def talk() -> dict[str, Any]:
    engine = create_engine(EngineSettings(accelerator="cpu", ddp_timeout_s=60))
    rank = engine.process_index
    rows = 3 - 2 * rank  # 3 on rank 0, 1 on rank 1
    uneven = torch.arange(rows * 2).reshape(rows, 2) + 100 * rank
    nested = engine.gather({"a": uneven, "b": (torch.tensor(float(rank)), [uneven[:, 0], None])})
    dtypes = {name: engine.gather((torch.arange(rows) + rank).to(dtype)) for name, dtype in DTYPES.items()}
    empty = engine.gather(torch.zeros(2 * rank, 4, dtype=torch.bfloat16))
    source = torch.tensor([2**53 + rank, 1], dtype=torch.int64)
    total = engine.reduce_sum(source)
    try:
        engine.gather(["text"])
        refused = ""
    except HardwareError as error:
        refused = str(error)
    engine.barrier()
    return {
        "rank": [engine.process_index, engine.world_size, engine.is_world_process_zero],
        "a": nested["a"].tolist(),
        "scalar": nested["b"][0].tolist(),
        "column": nested["b"][1][0].tolist(),
        "none": nested["b"][1][1],
        "types": [type(nested).__name__, type(nested["b"]).__name__],
        "dtypes": {name: [str(got.dtype), got.to(torch.float64).tolist()] for name, got in dtypes.items()},
        "empty": list(empty.shape),
        "total": total.tolist(),
        "source": source.tolist(),
        "float_dtype": str(engine.reduce_sum(torch.ones(1)).dtype),
        "objects": engine.gather_object({"rank": rank}),
        "broadcast": [engine.broadcast_object(f"from {rank}"), engine.broadcast_object(f"from {rank}", src=1)],
        "scattered": engine.scatter_object([{"to": 0}, {"to": 1}] if rank == 0 else None),
        "refused": refused,
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return launch(talk)


def test_each_process_knows_its_place(ranks: list[dict[str, Any]]) -> None:
    assert [rank["rank"] for rank in ranks] == [[0, 2, True], [1, 2, False]]


def test_uneven_batches_are_gathered_in_rank_order_without_padding(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["a"] == [[0, 1], [2, 3], [4, 5], [100, 101]]
        assert rank["column"] == [0, 2, 4, 100]
        assert rank["types"] == ["dict", "tuple"]
        assert rank["none"] is None


def test_scalars_are_gathered_to_one_per_process(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["scalar"] == [0.0, 1.0] for rank in ranks)


@pytest.mark.parametrize("name", DTYPES)
def test_gather_keeps_dtype_and_values(ranks: list[dict[str, Any]], name: str) -> None:
    expected = torch.tensor([0, 1, 2, 1]).to(DTYPES[name])
    assert all(rank["dtypes"][name] == [str(DTYPES[name]), expected.double().tolist()] for rank in ranks)


def test_a_process_may_bring_nothing(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["empty"] == [2, 4] for rank in ranks)


def test_sums_are_exact_in_int64_and_leave_the_input_alone(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["total"] == [2**54 + 1, 2] for rank in ranks)
    assert [rank["source"] for rank in ranks] == [[2**53, 1], [2**53 + 1, 1]]
    assert all(rank["float_dtype"] == "torch.float64" for rank in ranks)


def test_objects_are_gathered_and_broadcast(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["objects"] == [{"rank": 0}, {"rank": 1}]
        assert rank["broadcast"] == ["from 0", "from 1"]
        assert rank["scattered"] == {"to": rank["rank"][0]}


def test_gather_refuses_what_is_no_tensor(ranks: list[dict[str, Any]]) -> None:
    assert all("found str. Use gather_object" in rank["refused"] for rank in ranks)
