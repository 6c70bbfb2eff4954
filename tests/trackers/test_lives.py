"""What a tracker's own library keeps of a run that is killed, goes on, and ends; and of runs that end otherwise.

Each tracker trains three times only, since most of it is the time that its library takes to be imported; the tests look
at different sides of what is there then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.trackers.environments import KEEPS_CHECKPOINTS, environment

pytestmark = [pytest.mark.slow, pytest.mark.trackers]

HERE = Path(__file__).parent
TRACKERS = (
    "clearml",
    "comet_ml",
    "dvclive",
    "flyte",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)
KEEPS_APART = ("clearml", "neptune")
"""Their offline formats keep each process apart; in the others, what a resumed run tells is in the same run."""
CHECKPOINTS = {
    "flyte": ["checkpoint"],
    "swanlab": [],
    "tensorboard": [],
    "wandb": ["checkpoint-first-run"],  # with two versions
}
"""What stands for checkpoints where it is not checkpoint-10 and checkpoint-20."""
EVERY_KIND = ["picture", "sample", "weights"]
MEDIA = {
    "dvclive": ["picture"],
    "flyte": ["picture", "sample"],
}
"""What is shown of a picture, a text and a histogram where it is not all of them."""
KEEPS_NO_FOLDERS = ("flyte", "tensorboard")
NAMED_BY_VARIABLES = {
    "clearml": ("name", "task-of-mine"),
    "comet_ml": ("project", "demo"),
    "swanlab": ("project", "demo"),
    "trackio": ("project", "demo"),
}
"""What their variables name, as `environments.py` sets them. Those of the others are in test_settings.py, or none."""


@dataclass(frozen=True)
class Life:
    """What was read back of a tracker: of one run, and of three that ended otherwise."""

    tracker: str
    found: dict[str, Any]
    ends: dict[str, Any]


def run(script: str, tracker: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in a process of its own, where the tracker's settings are."""
    command = [sys.executable, str(HERE / script), tracker, *options]
    variables = environment(tracker, folder)
    if script == "endings.py":
        variables.pop(KEEPS_CHECKPOINTS.get(tracker, ""), None)
    return subprocess.run(command, check=False, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)


def read_back(tracker: str, folder: Path) -> dict[str, Any]:
    """Read in a fresh process what the tracker keeps in the folder."""
    done = run("read_back.py", tracker, folder, str(folder))
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def make_repository(folder: Path) -> None:
    """Make the folder one of git and DVC, where DVCLive keeps artifacts."""
    (folder / ".gitconfig").write_text("[user]\n name = someone\n email = someone@example.org\n")
    dvc = f"{sys.executable} -m dvc init -q"
    command = f"git init -q && {dvc} && git add . && git commit -qm begin"
    subprocess.run(command, check=True, cwd=folder, env=environment("dvclive", folder), shell=True)


@pytest.fixture(scope="module", params=TRACKERS)
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """A run that is killed at step 15 and goes on to the end, and runs that end otherwise."""
    tracker = request.param
    folder, other = tmp_path_factory.mktemp(tracker), tmp_path_factory.mktemp(f"{tracker}-ends")
    if tracker == "dvclive":
        make_repository(folder)
    killed = run("train.py", tracker, folder, "out", "--odd", "--kill-at", "15", "--told-first")
    assert killed.returncode == -9, killed.stderr
    resumed = run("train.py", tracker, folder, "out", "--odd", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    ended = run("endings.py", tracker, other)
    assert ended.returncode == 0, ended.stderr
    return Life(tracker, read_back(tracker, folder), read_back(tracker, other))


def test_each_step_is_there_once_also_of_a_run_that_was_killed(life: Life) -> None:
    points = life.found["points"]
    assert [step for step, _ in points] == list(range(1, 21))
    assert [value for _, value in points] == pytest.approx([1 / step for step in range(1, 21)], rel=1e-6)


def test_a_resumed_run_is_the_same_one_where_its_service_can(life: Life) -> None:
    assert life.found["runs"] == (2 if life.tracker in KEEPS_APART else 1)


def test_arguments_and_the_models_configuration_are_there(life: Life) -> None:
    params = life.found["params"]
    assert (str(params["max_steps"]), str(params["width"])) == ("20", "3")


def test_a_finished_run_says_so(life: Life) -> None:
    assert life.found["status"] == "finished"


def test_checkpoints_are_kept_where_the_service_can(life: Life) -> None:
    expected = CHECKPOINTS.get(life.tracker, ["checkpoint-10", "checkpoint-20"])
    assert [name for name in life.found["artifacts"] if name.startswith("checkpoint")] == expected


def test_no_checkpoint_is_kept_where_nobody_asked_for_it(life: Life) -> None:
    if life.tracker in KEEPS_CHECKPOINTS:  # the interrupted run has one
        assert life.ends["artifacts"] == []


def test_the_variables_of_the_environment_name_the_project_or_the_task(life: Life) -> None:
    if life.tracker in NAMED_BY_VARIABLES:
        key, name = NAMED_BY_VARIABLES[life.tracker]
        assert life.found[key] == name


def test_a_folder_is_kept_where_the_service_can(life: Life) -> None:
    assert ("notes" in life.found["artifacts"]) == (life.tracker not in KEEPS_NO_FOLDERS)


def test_what_is_to_be_seen_is_there_where_the_service_can(life: Life) -> None:
    assert life.found["media"] == MEDIA.get(life.tracker, EVERY_KIND)


def test_a_run_that_failed_says_why(life: Life) -> None:
    status, error = life.ends["ends"][0]
    assert status == "failed"
    assert "as the test asked" in error


def test_a_run_that_was_interrupted_says_so(life: Life) -> None:
    assert life.ends["ends"][1][0] == "interrupted"


def test_a_trial_that_was_pruned_says_so(life: Life) -> None:
    assert life.ends["ends"][2][0] == "pruned"


def test_a_trial_has_its_parameters_and_its_group(life: Life) -> None:
    assert float(life.ends["params"]["rate"]) == 0.25
    assert life.ends["groups"] == ["search-1"]


def test_codecarbon_has_a_row_for_each_process_of_a_run_also_of_one_that_was_killed(tmp_path: Path) -> None:
    assert run("train.py", "codecarbon", tmp_path, "out", "--kill-at", "15", "--told-first").returncode == -9
    resumed = run("train.py", "codecarbon", tmp_path, "out", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    found = read_back("codecarbon", tmp_path)
    assert min(found["energy"]) > 0
    assert len(found["ids"]) == 2
    assert len(set(found["ids"])) == 1
    assert (found["countries"], found["names"]) == (["FRA", "FRA"], ["first-run", "first-run"])
