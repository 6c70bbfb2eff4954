"""What WANDB_WATCH and WANDB_LOG_MODEL have W&B keep, read back from the files of its offline runs.

Three runs are trained; each test looks at another side of one of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trackers.environments import environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent
NAMES = ("net.bias", "net.weight")
FINAL, CHECKPOINTS = "model-watched-run", "checkpoint-watched-run"


def trained(folder: Path, **variables: str) -> dict[str, Any]:
    """Train with these variables, and return what W&B keeps."""
    for script, options in (("train_watched.py", []), ("read_back.py", [str(folder)])):
        done = subprocess.run(
            [sys.executable, str(HERE / script), "wandb", *options],
            check=False,
            cwd=folder,
            env={**environment("wandb", folder), **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end")


@pytest.fixture(scope="module")
def watched(folder: Path) -> dict[str, Any]:
    """A run that is watched whole, and whose model is kept at its end."""
    return trained(folder, WANDB_WATCH="all", WANDB_LOG_MODEL="end")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of which gradients are watched, and each checkpoint is kept."""
    return trained(tmp_path_factory.mktemp("checkpoint"), WANDB_WATCH="gradients", WANDB_LOG_MODEL="checkpoint")


@pytest.fixture(scope="module")
def unkept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of which parameters are watched, and no model is kept."""
    return trained(tmp_path_factory.mktemp("false"), WANDB_WATCH="parameters", WANDB_LOG_MODEL="false")


def weights_of(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(f"out/{pattern}/model.safetensors")
    return path


def named(*kinds: str) -> list[str]:
    """The names of the histograms: of every parameter that is trained, none of the frozen one."""
    return [f"{kind}/{name}" for kind in kinds for name in NAMES]


def test_all_is_gradients_and_parameters_every_hundred_steps(watched: dict[str, Any]) -> None:
    assert sorted(watched["histograms"]) == named("gradients", "parameters")
    assert [[step for step, _, _ in rows] for rows in watched["histograms"].values()] == [[100, 200]] * 4


def test_gradients_alone_are_watched(kept: dict[str, Any]) -> None:
    assert sorted(kept["histograms"]) == named("gradients")


def test_parameters_alone_are_watched(unkept: dict[str, Any]) -> None:
    assert sorted(unkept["histograms"]) == named("parameters")


def test_a_histogram_counts_all_values_between_the_least_and_the_greatest(watched: dict[str, Any]) -> None:
    _, counts, edges = watched["histograms"]["gradients/net.weight"][0]
    assert (len(counts), len(edges), sum(counts)) == (64, 65, 6)
    # The gradient of a mean over 2 outputs is -1/2 for each of 8 parameters, clipped to a norm of 1.
    assert edges[0] == pytest.approx(-(8**-0.5), rel=1e-5)


def test_parameters_are_those_that_the_step_begins_with(watched: dict[str, Any], folder: Path) -> None:
    # The 200th step's rate is nearly zero, so what it begins with is what its checkpoint holds.
    _, _, edges = watched["histograms"]["parameters/net.weight"][1]
    weight = load_file(weights_of(folder, "checkpoint-200"))["net.weight"]
    assert [edges[0], edges[-1]] == pytest.approx([float(weight.min()), float(weight.max())], abs=2e-4)


def test_end_keeps_one_model_and_no_checkpoint(watched: dict[str, Any]) -> None:
    assert watched["aliases"] == {FINAL: [["final_model", "latest"]]}
    assert set(watched["files"][FINAL][0]) == {"model.safetensors", "task.json", "training_args.json"}


def test_the_model_at_the_end_is_the_best_one_where_that_is_loaded(watched: dict[str, Any], folder: Path) -> None:
    saved = weights_of(folder, "runs/*/artifacts/model-200")
    digest = base64.b64encode(hashlib.md5(saved.read_bytes(), usedforsecurity=False).digest()).decode()
    assert watched["files"][FINAL][0]["model.safetensors"] == digest
    best, last = (load_file(weights_of(folder, f"checkpoint-{step}"))["net.weight"] for step in (100, 200))
    assert load_file(saved)["net.weight"].equal(best)
    assert not best.equal(last)


def test_checkpoint_keeps_each_of_them_as_a_version_and_the_model_at_the_end(kept: dict[str, Any]) -> None:
    assert kept["aliases"] == {
        CHECKPOINTS: [["latest", "step-100"], ["latest", "step-200"]],
        FINAL: [["final_model", "latest"]],
    }


def test_a_checkpoint_is_kept_whole(kept: dict[str, Any]) -> None:
    for files in kept["files"][CHECKPOINTS]:
        assert {"MANIFEST.json", "model.safetensors", "optimizer.safetensors", "trainer_state.json"} <= files.keys()


def test_false_keeps_no_model(unkept: dict[str, Any]) -> None:
    assert unkept["artifacts"] == []


def test_false_watches_nothing(tmp_path: Path) -> None:
    assert trained(tmp_path, WANDB_WATCH="false", WANDB_LOG_MODEL="false")["histograms"] == {}
