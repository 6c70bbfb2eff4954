from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.cells import CELLS
from tests.parity.harness import both, differences, row_differences

pytest.importorskip("transformers")


@pytest.mark.filterwarnings("default")  # the reference's own
@pytest.mark.parametrize("name", CELLS)
def test_a_hundred_steps_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    cell = CELLS[name]
    mine, reference = both(cell, tmp_path)
    assert mine.state["global_step"] >= cell.steps
    numbers = differences(cell, mine, reference)
    assert {kind: value for kind, value in numbers.items() if not value <= cell.tolerance} == {}
    assert row_differences(mine, reference) == []
    assert mine.events == reference.events
    assert mine.keywords == reference.keywords
