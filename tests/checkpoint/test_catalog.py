"""What lies in an output folder, and what of it can be trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hftrain.checkpoint.catalog import Status, check_sums, inspect_folder, scan
from hftrain.checkpoint.storage import LocalStorage
from hftrain.errors import TornCheckpointError
from tests.checkpoint.kit import manager, save


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "MANIFEST.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "moved")
    path.symlink_to(path.parent.parent / "moved")


DAMAGES: dict[str, tuple[Callable[[Path], object], Status]] = {
    "nothing": (lambda folder: None, Status.COMMITTED),
    "an unlisted file": (lambda folder: (folder / "notes.txt").touch(), Status.COMMITTED),
    "the mark left": (lambda folder: (folder / ".incomplete").touch(), Status.COMMITTED),
    "a missing file": (lambda folder: (folder / "model.safetensors").unlink(), Status.TORN),
    "a shorter file": (lambda folder: os.truncate(folder / "model.safetensors", 8), Status.TORN),
    "a link": (lambda folder: replace_by_link(folder / "model.safetensors"), Status.TORN),
    "half a manifest": (lambda folder: os.truncate(folder / "MANIFEST.json", 50), Status.TORN),
    "a manifest of zeros": (lambda folder: (folder / "MANIFEST.json").write_bytes(bytes(99)), Status.TORN),
    "a path outside": (lambda folder: edit_manifest(folder, files={"../x": {"bytes": 0}}), Status.TORN),
    "a later format": (lambda folder: edit_manifest(folder, format=2), Status.NEWER),
    "no manifest": (lambda folder: (folder / "MANIFEST.json").unlink(), Status.UNVERIFIABLE),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_is_what_its_files_say(damage: str, tmp_path: Path) -> None:
    folder = Path(save(manager(tmp_path), 1))
    change, status = DAMAGES[damage]
    change(folder)
    assert inspect_folder(LocalStorage(), str(folder)).status is status


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([], Status.TORN),
        ([".incomplete"], Status.TORN),
        ([".incomplete", "trainer_state.json"], Status.TORN),
        (["trainer_state.json", "optimizer.pt"], Status.UNVERIFIABLE),
        (["model.safetensors"], Status.NOT_ONE),
        (["MANIFEST.json/x"], Status.NOT_ONE),
    ],
    ids=str,
)
def test_a_folder_without_a_manifest_is_torn_or_the_references_or_no_checkpoint(
    files: list[str], status: Status, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    for name in files:
        LocalStorage().write(f"{tmp_path}/checkpoint-5/{name}", [])
    assert inspect_folder(LocalStorage(), f"{tmp_path}/checkpoint-5").status is status


def test_a_folder_of_folders_is_somebody_elses_and_stays(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1/global_step1").mkdir(parents=True)
    save(manager(tmp_path), 2)
    assert (tmp_path / "checkpoint-1/global_step1").is_dir()


def test_only_the_folders_of_steps_are_found_and_links_are_not(tmp_path: Path) -> None:
    save(manager(tmp_path), 3)
    (tmp_path / "runs").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-9").symlink_to("checkpoint-3")
    assert [folder.name for folder in scan(LocalStorage(), str(tmp_path))] == ["checkpoint-3"]


def test_a_changed_byte_of_the_same_size_is_found_by_the_checksum_only(tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    folder = inspect_folder(LocalStorage(), str(path))
    check_sums(LocalStorage(), folder, "sizes")
    with pytest.raises(TornCheckpointError, match="changed after it was written"):
        check_sums(LocalStorage(), folder, "auto")


def test_auto_compares_sizes_only_from_a_gibibyte_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = inspect_folder(LocalStorage(), save(manager(tmp_path), 1))
    read: list[str] = []
    monkeypatch.setattr("hftrain.checkpoint.catalog.problem_with_sum", lambda storage, path, sum_: read.append(path))
    assert folder.manifest is not None
    monkeypatch.setattr("hftrain.checkpoint.catalog.CHECKED_BYTES", folder.manifest.total_bytes)
    check_sums(LocalStorage(), folder, "auto")
    assert not read
    check_sums(LocalStorage(), folder, "full")
    assert len(read) == len(folder.manifest.files)


@pytest.mark.slow
def test_looking_at_checkpoints_loads_no_torch() -> None:
    code = "import sys, hftrain.checkpoint.catalog as c, hftrain.checkpoint.resume; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
