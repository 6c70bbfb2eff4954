from __future__ import annotations

import getpass
import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.plugin_api.spool import read_events
from hftrain.trainer.environment import environment_of, git_commit
from hftrain.trainer.tracking import run_of
from tests.trainer.tasks import arguments, trainer


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def test_the_versions_and_the_device_are_known(tmp_path: Path) -> None:
    found = environment_of(arguments(tmp_path))
    assert (found["torch"], found["python"]) == (torch.__version__, platform.python_version())
    assert (found["device"], found["num_processes"]) == ("cpu", 1)


def test_neither_host_nor_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-of-this-test")
    told = json.dumps(environment_of(arguments(tmp_path)))
    assert platform.node() not in told
    assert getpass.getuser() not in told


def test_the_commit_is_that_of_the_folders_repository(repository: Path) -> None:
    (repository / "deep").mkdir()
    assert git_commit(str(repository / "deep")) == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("words", [("checkout", "-q", "--detach"), ("pack-refs", "--all")])
def test_a_detached_head_and_packed_branches_are_read(repository: Path, words: tuple[str, ...]) -> None:
    git(repository, *words)
    assert git_commit(str(repository)) == git(repository, "rev-parse", "HEAD")


def test_a_worktree_is_read(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "-q", "--allow-empty", "-m", "second")
    assert git_commit(str(tmp_path / "tree")) == git(tmp_path / "tree", "rev-parse", "HEAD")


@pytest.mark.parametrize("content", ["", "ref: refs/heads/none", "ref: ../../x", "no commit", "\udcff"])
def test_a_repository_that_is_none_has_no_commit(tmp_path: Path, content: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(content.encode(errors="surrogateescape"))
    assert git_commit(str(tmp_path)) is None


def test_it_stands_at_the_beginning_of_the_record(tmp_path: Path) -> None:
    run, tracking = trainer(tmp_path), Tracking({}, TrackingSettings())
    told = run_of(run)
    tracking.begin(told)
    tracking.end("finished", step=0)
    start = next(read_events(f"{told.folder}/events.jsonl"))
    assert start.data["environment"] == environment_of(run.args)
