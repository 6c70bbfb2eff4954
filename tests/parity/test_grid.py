from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.cells import CELLS, SHORT
from tests.parity.harness import both, problems


@pytest.mark.filterwarnings("default")  # the reference's own
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in SHORT)) for name in CELLS])
def test_a_hundred_steps_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    assert problems(CELLS[name], *both(CELLS[name], tmp_path)) == []
