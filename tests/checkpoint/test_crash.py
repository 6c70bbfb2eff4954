"""A process that dies at any verb of a save leaves the old or the new checkpoint committed, whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hftrain.checkpoint.storage import storage_for
from tests.checkpoint import failing  # noqa: F401 (makes the protocol known)
from tests.checkpoint.kit import Crash, CrashingStorage, manager, save


def prepare(out: Path) -> None:
    """A committed checkpoint, one more that retention will remove, and a torn one."""
    save(manager(out), 1)
    save(manager(out), 2)
    (out / "checkpoint-9").mkdir(exist_ok=True)
    for name in (".incomplete", "trainer_state.json", "model.safetensors"):
        (out / "checkpoint-9" / name).touch()


SAVES: dict[str, Callable[[Path, CrashingStorage], object]] = {
    "new": lambda out, storage: save(manager(out, storage=storage, save_total_limit=1), 3),
    "over": lambda out, storage: save(manager(out, storage=storage, save_total_limit=1), 1),
    "best": lambda out, storage: save(manager(out, storage=storage, save_total_limit=1), 3, best="checkpoint-1"),
    "end": lambda out, storage: manager(out, storage=storage, save_total_limit=1).retain(best="checkpoint-1"),
}


def num_verbs(kind: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        storage = CrashingStorage()
        SAVES[kind](Path(folder), storage)
        return storage.num_verbs


CASES = [(kind, at) for kind in SAVES for at in range(num_verbs(kind))]


@pytest.mark.parametrize(("kind", "at"), CASES, ids=[f"{kind}-{at}" for kind, at in CASES])
def test_a_crash_leaves_the_old_or_the_new_committed_and_the_next_save_cleans_up(
    kind: str, at: int, tmp_path: Path
) -> None:
    prepare(tmp_path)
    with pytest.raises(Crash):
        SAVES[kind](tmp_path, CrashingStorage(at=at))
    checkpoints = manager(tmp_path, save_total_limit=1, verify="full")
    for found in (checkpoints.resolve(True), checkpoints.resolve("auto")):
        assert found is not None
        reader = checkpoints.open(found)
        assert reader.manifest is not None, "a folder stopped halfway was taken for the reference's"
        assert reader.model()["weight"].item() == reader.step
    if kind in {"best", "end"}:
        assert checkpoints.open(f"{tmp_path}/checkpoint-1").step == 1
    save(checkpoints, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize("at", range(num_verbs("new")))
def test_a_crash_of_the_very_first_save_leaves_it_whole_or_nothing(at: int, tmp_path: Path) -> None:
    storage = CrashingStorage(at=at)
    try:
        save(manager(tmp_path, storage=storage), 1)
    except Crash:
        found = manager(tmp_path, verify="full").resolve("auto")
        assert found in (None, f"{tmp_path}/checkpoint-1")
        assert found is None or manager(tmp_path).open(found).model()["weight"].item() == 1
    save(manager(tmp_path), 2)
    assert manager(tmp_path).resolve(True) == f"{tmp_path}/checkpoint-2"


def test_a_crash_behind_a_url_leaves_the_old_or_the_new_committed(tmp_path: Path) -> None:
    for at in range(num_verbs("new")):
        out = f"failing://{tmp_path}/{at}"
        save(manager(out), 1)
        storage = CrashingStorage(at=at, inner=storage_for(out))
        with suppress(Crash):
            save(manager(out, storage=storage, save_total_limit=1), 3)
        checkpoints = manager(out, save_total_limit=1, verify="full")
        found = checkpoints.resolve("auto")
        assert found in (f"{out}/checkpoint-1", f"{out}/checkpoint-3")
        assert checkpoints.open(found).model()["weight"].item() == checkpoints.open(found).step
        save(checkpoints, 4)
        assert [entry.name for entry in storage_for(out).list(out)] == ["checkpoint-4"]
