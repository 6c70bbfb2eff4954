"""Which checkpoints are there after each save, and at the end, is what the reference keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.parity.harness import Cell, build, ours, theirs
from tests.parity.models import points

# The reference's own warnings are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

SCORES = (1.0, 3.0, 2.0, 2.5, 1.5, 2.9)
RUN: dict[str, Any] = {"num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps"}
BEST: dict[str, Any] = {"metric_for_best_model": "score", "greater_is_better": True}
LOADED = {**BEST, "load_best_model_at_end": True}

RUNS: dict[str, dict[str, Any]] = {
    "all": {"save_steps": 4},
    "one": {"save_steps": 4, "save_total_limit": 1},
    "two": {"save_steps": 4, "save_total_limit": 2},
    "one and the best": {"save_steps": 4, "save_total_limit": 1, **BEST},
    "two and the best": {"save_steps": 4, "save_total_limit": 2, **BEST},
    "one and the best, loaded": {"save_steps": 4, "save_total_limit": 1, **LOADED},
    "two and the best, loaded": {"save_steps": 4, "save_total_limit": 2, **LOADED},
    "three and the best, loaded": {"save_steps": 4, "save_total_limit": 3, **LOADED},
    "the best at a step that is not saved": {"save_steps": 12, "save_total_limit": 1, **BEST},
    "a best that is saved later": {"save_steps": 8, "save_total_limit": 1, **BEST},
    "by epochs": {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, **LOADED},
    "a share of the run": {"save_steps": 0.4, "eval_steps": 0.2, "save_total_limit": 1, **BEST},
    "the last step too": {"save_steps": 10},
    "no limit of zero": {"save_steps": 4, "save_total_limit": 0},
}


def kept(library: Any, args: dict[str, Any], folder: Path) -> list[Any]:
    """Return what lies in the folder at each save and at the end, and what the state says of the best."""
    output = folder / library.name
    scores = iter(SCORES)
    seen: list[Any] = []

    def listed() -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in output.glob("checkpoint-*"))

    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = state.best_model_checkpoint
        seen.append((state.global_step, listed(), state.best_global_step, best and Path(best).name))

    watching = type("Watching", (library.TrainerCallback,), {"on_save": on_save})()
    cell = Cell(
        args={**RUN, **args},
        eval_data=lambda: points(8, seed=1),
        trainer={"compute_metrics": lambda prediction: {"score": next(scores)}},
        callbacks=lambda library: [watching],
    )
    build(library, cell, folder, [], []).train()
    return [*seen, listed()]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_checkpoints_are_kept(tmp_path: Path, name: str) -> None:
    mine, reference = (kept(library, RUNS[name], tmp_path) for library in (ours(), theirs()))
    assert mine == reference


def test_only_improvements_are_kept(tmp_path: Path) -> None:
    # Under this strategy the reference forgets which step was the best.
    mine, reference = (
        [listed[1] if isinstance(listed, tuple) else listed for listed in kept(library, args, tmp_path)]
        for args in [{"save_strategy": "best", **BEST}]
        for library in (ours(), theirs())
    )
    assert mine == reference == [[4], [4, 8], [4, 8]]
