"""What is counted in a run is what the reference counts: tokens, operations, and where they are logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.parity.harness import Cell, both, row_differences
from tests.parity.models import causal_lm, classified, classifier, sentences

CELLS: dict[str, Cell] = {
    "tokens seen": Cell(model=causal_lm, data=sentences, args={"include_num_input_tokens_seen": True}),
    "windows": Cell(
        model=classifier,
        data=lambda: classified(52),
        args={
            "include_num_input_tokens_seen": True,
            "gradient_accumulation_steps": 2,
            "logging_steps": 3,
        },
    ),
}


@pytest.mark.filterwarnings("default")  # the reference's own
@pytest.mark.parametrize("name", CELLS)
def test_tokens_and_operations_are_the_references(tmp_path: Path, name: str) -> None:
    mine, reference = both(CELLS[name], tmp_path, num_train_epochs=2)
    for field in ("num_input_tokens_seen", "total_flos"):
        assert mine.state[field] == reference.state[field], field
    assert mine.state["total_flos"] > 0
    assert row_differences(mine, reference) == []
    assert _keys(mine.rows) == _keys(reference.rows)


@pytest.mark.filterwarnings("default")
def test_a_rate_of_tokens_is_in_the_references_row(tmp_path: Path) -> None:
    # The reference goes through the loader once before, which moves its random numbers on: values differ.
    cell = Cell(model=causal_lm, data=sentences, args={"include_tokens_per_second": True})
    mine, reference = both(cell, tmp_path, num_train_epochs=2)
    assert _keys(mine.rows) == _keys(reference.rows)
    assert mine.state["num_input_tokens_seen"] == reference.state["num_input_tokens_seen"] == 0


def _keys(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [list(row) for row in rows]
