from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hftrain import Trainer
from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.plugin_api.tracker import Artifact, Run, Tracker
from hftrain.trainer import watching
from hftrain.trainer.tracking import run_of
from hftrain.trainer.watching import NUM_BINS, watching_for, write_histograms
from tests.benchmarks.test_host_reads import reads_per_step
from tests.trainer.tasks import trainer


class Watches(Tracker):
    """Watches what it is made with, and keeps it."""

    def __init__(self, kinds: Collection[str] = (), *, takes_model: bool = False) -> None:
        self.kinds, self.takes_model = kinds, takes_model
        self.rows: list[tuple[int, str, dict[str, tuple[Any, Any]]]] = []
        self.artifacts: list[tuple[Artifact, list[str]]] = []

    def start(self, run: Run) -> None:
        pass

    def watches(self) -> Collection[str]:
        return self.kinds

    def takes_final_model(self) -> bool:
        return self.takes_model

    def log_histograms(self, kind: str, histograms: Mapping[str, tuple[Any, Any]], step: int) -> None:
        self.rows.append((step, kind, dict(histograms)))

    def log_artifact(self, artifact: Artifact) -> None:
        self.artifacts.append((artifact, sorted(path.name for path in Path(artifact.path).iterdir())))


def reported_by(folder: Path, *trackers: Watches, **changes: Any) -> Trainer:
    run = trainer(folder, **{"max_steps": 200, "logging_steps": 50, **changes})
    made = {str(number): (lambda one=one: one) for number, one in enumerate(trackers)}
    run._tracking = Tracking(made, TrackingSettings(close_s=30), run_of=lambda: run_of(run))
    run.args.report_to = list(made)
    run.callback_handler.callbacks[1:1] = [run._tracking, *watching_for(run._tracking)]
    return run


def test_a_tracker_that_watches_is_told_every_hundred_steps(tmp_path: Path) -> None:
    tracker = Watches(["parameters", "gradients"])
    run = reported_by(tmp_path, tracker)
    run.train()
    assert [row[:2] for row in tracker.rows] == [
        (100, "gradients"),
        (100, "parameters"),
        (200, "gradients"),
        (200, "parameters"),
    ]
    names = {name for name, _ in run.model.named_parameters()}
    assert all(row[2].keys() == names for row in tracker.rows)


def test_rarer_rows_make_what_is_watched_rarer(tmp_path: Path) -> None:
    tracker = Watches(["parameters"])
    reported_by(tmp_path, tracker, logging_steps=150).train()
    assert [row[0] for row in tracker.rows] == [150]


def test_another_tracker_hears_nothing_of_what_one_watches(tmp_path: Path) -> None:
    watching, other = Watches(["gradients"]), Watches()
    reported_by(tmp_path, watching, other, max_steps=100).train()
    assert len(watching.rows) == 1
    assert other.rows == []


def test_who_watches_nothing_gets_no_callback(tmp_path: Path) -> None:
    assert watching_for(Tracking({"one": Watches}, TrackingSettings())) == []


@pytest.mark.parametrize(("fewest", "reads"), [(100, Counter()), (10, Counter(numpy=4))])
def test_both_kinds_are_read_once_each_when_they_are_due_and_nothing_is_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fewest: int, reads: Counter[str]
) -> None:
    monkeypatch.setattr(watching, "_FEWEST_STEPS", fewest)

    def reads_of(kinds: Collection[str]) -> Counter[str]:
        def run(steps: int) -> None:
            reported_by(tmp_path, Watches(kinds), max_steps=steps, logging_steps=10, save_strategy="no").train()

        return reads_per_step(run)  # of 20 steps

    assert reads_of(["gradients", "parameters"]) - reads_of([]) == reads


def test_the_histogram_counts_every_value_between_its_ends(tmp_path: Path) -> None:
    values = torch.linspace(-1.0, 3.0, 4096)
    write_histograms({"weight": values}, str(tmp_path / "h.npz"))
    with np.load(tmp_path / "h.npz") as found:
        counts, edges = found["counts"][0], found["edges"][0]
    assert (edges[0], edges[-1], len(edges)) == (-1.0, 3.0, NUM_BINS + 1)
    expected, _ = np.histogram(values.numpy(), bins=edges)
    assert counts.sum() == 4096
    assert np.abs(counts - expected).max() <= 1


@pytest.mark.parametrize("value", [0.0, 5.0, -2.5])
def test_values_that_are_all_the_same_are_in_the_first_bin(tmp_path: Path, value: float) -> None:
    write_histograms({"weight": torch.full((7,), value)}, str(tmp_path / "h.npz"))
    with np.load(tmp_path / "h.npz") as found:
        assert found["counts"][0][0] == 7
        assert found["edges"][0][0] == value


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    values = torch.tensor([float("nan"), float("inf"), 1.0, 2.0, -float("inf")])
    write_histograms({"weight": values, "dead": values[:2]}, str(tmp_path / "h.npz"))
    with np.load(tmp_path / "h.npz") as found:
        assert found["counts"].sum(axis=1).tolist() == [2, 0]
        assert found["edges"][0][[0, -1]].tolist() == [1.0, 2.0]
        assert np.isfinite(found["edges"]).all()


def test_a_tracker_that_takes_the_final_model_gets_it(tmp_path: Path) -> None:
    taking, other = Watches(takes_model=True), Watches()
    run = reported_by(tmp_path, taking, other, max_steps=3, save_strategy="no")
    run.train()
    ((artifact, files),) = taking.artifacts
    assert (artifact.name, artifact.step, artifact.is_final_model) == ("model", 3, True)
    assert {"model.safetensors", "task.json"} <= set(files)
    assert other.artifacts == []


def test_a_run_that_fails_has_no_final_model(tmp_path: Path) -> None:
    taking = Watches(takes_model=True)
    run = reported_by(tmp_path, taking, max_steps=3, save_strategy="no")
    run.model.training_step = lambda batch: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert taking.artifacts == []


def test_a_disk_that_refuses_the_final_model_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taking = Watches(takes_model=True)
    run = reported_by(tmp_path, taking, max_steps=3, save_strategy="no")
    run.save_model = lambda *args: (_ for _ in ()).throw(OSError("no space"))  # type: ignore[method-assign]
    run.train()
    assert "the final model cannot be saved" in caplog.text.lower()
    assert taking.artifacts == []
