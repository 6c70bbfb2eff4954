from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from hftrain.core.predictions import Predictions, RowBuffer, gather_rows
from hftrain.errors import DataError
from hftrain.hardware.engine import create_engine
from hftrain.hardware.settings import EngineSettings

ENGINE = create_engine(EngineSettings(accelerator="cpu"))


def joined(batches: list[Any], **options: Any) -> Any:
    kept = Predictions(ENGINE, "predictions", **options)
    for batch in batches:
        kept.add(gather_rows(ENGINE, batch, 99))
    return kept.join()


def block(rows: int, columns: int, *, value: float = 1.0) -> np.ndarray[Any, Any]:
    return np.full((rows, columns), value, dtype=np.float32)


@pytest.mark.parametrize("num_rows", [None, 3, 9, 50])
@pytest.mark.parametrize("widths", [[2, 2, 2], [2, 3, 7], [7, 3, 2], [3, 9, 1], [5, 5, 6]])
def test_rows_of_any_width_are_joined_and_padded_with_minus_100(num_rows: int | None, widths: list[int]) -> None:
    batches = [block(rows, width, value=rows) for rows, width in zip([4, 3, 2], widths, strict=True)]
    buffer = RowBuffer(batches[0], num_rows=num_rows)
    for batch in batches:
        buffer.add(batch)
    whole = buffer.finish()
    expected = [np.pad(batch, [(0, 0), (0, max(widths) - batch.shape[1])], constant_values=-100) for batch in batches]
    assert np.array_equal(whole, np.concatenate(expected))
    assert whole.flags.owndata


def test_many_widening_batches_keep_every_value() -> None:
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(3, width, 2)).astype(np.float32) for width in [*range(1, 40), 5, 39]]
    buffer = RowBuffer(batches[0])
    for batch in batches:
        buffer.add(batch)
    whole = buffer.finish()
    assert whole.shape == (3 * len(batches), 39, 2)
    for number, batch in enumerate(batches):
        rows = whole[3 * number : 3 * number + 3]
        assert np.array_equal(rows[:, : batch.shape[1]], batch)
        assert (rows[:, batch.shape[1] :] == -100).all()


def test_sizes_behind_dimension_1_must_agree() -> None:
    buffer = RowBuffer(np.zeros((2, 3, 4)))
    with pytest.raises(DataError, match=r"shape \(2, 3, 5\) cannot be joined to batches of shape \(rows, 3, 4\)"):
        buffer.add(np.zeros((2, 3, 5)))


def test_a_wider_type_is_taken_where_batches_differ() -> None:
    assert joined([torch.ones(2, dtype=torch.int64), torch.full((1,), 0.5)]).tolist() == [1.0, 1.0, 0.5]


def test_a_device_keeps_its_batches_until_so_many_are_there_or_the_end() -> None:
    class Device:
        device, world_size = torch.device("cuda"), 1

    moves: list[int] = []

    class Counted(Predictions):
        def _write(self, output: Any) -> None:
            moves.append(len(self._waiting))
            super()._write(output)

    for every, expected in ((None, [2, 1, 0]), (2, [1, 0, 0])):
        kept = Counted(Device(), "predictions", every=every)  # type: ignore[arg-type]
        for _ in range(3):
            kept.add(torch.ones(2))
        assert kept.join().shape == (6,)
        assert moves == expected
        moves.clear()


def test_nests_keep_their_shape() -> None:
    batch = ({"a": torch.ones(2, 3), "b": [torch.zeros(2)]}, None)
    first, nothing = joined([batch, batch])
    assert nothing is None
    assert first["a"].shape == (4, 3)
    assert [part.shape for part in first["b"]] == [(4,)]


def test_a_scalar_is_one_row_a_batch() -> None:
    assert joined([torch.tensor(1.0), torch.tensor(2.0)], num_samples=16).tolist() == [1.0, 2.0]


def test_batches_stay_apart_when_asked() -> None:
    batches = joined([torch.ones(2, 3), torch.ones(1, 5)], is_joined=False)
    assert [batch.shape for batch in batches] == [(2, 3), (1, 5)]


def test_bfloat16_becomes_float32() -> None:
    assert joined([torch.ones(2, dtype=torch.bfloat16)]).dtype == np.float32


def test_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(DataError, match="of a batch are 1 tensors and those of the first were 2"):
        joined([(torch.ones(1), torch.ones(1)), (torch.ones(1),)])


def test_what_is_no_tensor_is_refused_or_gathered_as_it_is() -> None:
    with pytest.raises(DataError, match="The predictions hold a str .'yes'., and only tensors .* eval_use_gather_obje"):
        gather_rows(ENGINE, ["yes", "no"], 2, name="predictions")
    kept = Predictions(ENGINE, "predictions")
    for texts in (["yes", "no"], ["maybe", "left out"]):
        kept.add(gather_rows(ENGINE, (torch.ones(2), texts), 2 - ("maybe" in texts), takes_objects=True))
    numbers, words = kept.join()
    assert numbers.shape == (3,)
    assert words == ["yes", "no", "maybe"]


def test_predictions_larger_than_the_memory_say_what_to_do() -> None:
    with pytest.raises(DataError, match="GiB of host memory.* preprocess_logits_for_metrics"):
        joined([torch.ones(2, 1000)], num_samples=10**15)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("widths", ["equal", "random", "growing", "growing, unknown length"])
def test_joining_takes_the_memory_of_the_result_and_a_fifth(widths: str) -> None:
    code = f"from tests.core.test_predictions import peak_ratio; print(peak_ratio({widths!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert float(done.stdout) <= 1.2


def peak_ratio(kind: str) -> float:
    """Peak resident memory of joining 40 MB, beyond what was resident before, over the result's size."""
    rows, width, size = 2000, 5000, 20
    widths = np.full(rows // size, width)
    if kind == "random":
        widths = np.random.default_rng(0).integers(width // 2, width + 1, len(widths))
    elif kind.startswith("growing"):
        widths = np.linspace(width // 50, width, len(widths)).astype(int)
    before, peak = resident(), 0
    buffer = RowBuffer(block(size, widths[0]), num_rows=None if "unknown" in kind else rows)
    for columns in widths:
        buffer.add(block(size, columns))
        peak = max(peak, resident())
    result = buffer.finish()
    return (max(peak, resident()) - before) / result.nbytes


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
