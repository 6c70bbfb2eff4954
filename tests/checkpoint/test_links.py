"""A folder of a stranger may hold links: what they lead to is neither read nor written nor removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hftrain.checkpoint.contents import model_part
from hftrain.checkpoint.foreign import open_any
from hftrain.checkpoint.reader import open_checkpoint
from hftrain.checkpoint.writer import write_folder
from hftrain.errors import CheckpointError
from tests.checkpoint.hostile import whole_checkpoint
from tests.checkpoint.kit import manager, save


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file.txt").write_text("mine")
    return folder


def test_a_checkpoint_is_not_written_through_a_link_in_its_place(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoint-1").symlink_to(precious)
    path = Path(save(manager(tmp_path / "out"), 1))
    assert not path.is_symlink()
    assert open_checkpoint(str(path)).step == 1
    assert [file.name for file in precious.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("name", [".incomplete", "model.safetensors", "MANIFEST.json"])
def test_a_file_is_not_written_through_a_link_in_its_place(tmp_path: Path, precious: Path, name: str) -> None:
    (tmp_path / "out/checkpoint-1").mkdir(parents=True)
    (tmp_path / "out/checkpoint-1" / name).symlink_to(precious / "file.txt")
    assert open_checkpoint(save(manager(tmp_path / "out"), 1)).step == 1
    assert (precious / "file.txt").read_text() == "mine"


def test_a_model_is_not_saved_through_a_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(precious / "file.txt")
    write_folder(str(tmp_path), [model_part({"w": torch.ones(1)})])
    assert (precious / "file.txt").read_text() == "mine"


def test_a_torn_folder_with_a_link_is_removed_without_what_it_leads_to(tmp_path: Path, precious: Path) -> None:
    torn = tmp_path / "out/checkpoint-1"
    torn.mkdir(parents=True)
    (torn / ".incomplete").write_text('{"run_id": "run", "step": 1}')
    (torn / "sub").symlink_to(precious)
    save(manager(tmp_path / "out"), 2)
    assert not torn.exists()
    assert (precious / "file.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_listed_file_that_is_none_makes_the_checkpoint_unusable(tmp_path: Path, kind: str) -> None:
    path = whole_checkpoint(tmp_path / "out")
    file = path / "optimizer.safetensors"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere") if kind == "link" else os.mkfifo(file)
    with pytest.raises(CheckpointError, match="is a link, pipe or device"):
        open_checkpoint(str(path))


def test_a_folder_that_is_a_link_holds_no_listed_file(tmp_path: Path) -> None:
    path = manager(tmp_path).save(1, [model_part({"w": torch.ones(1)})], epoch=0, samples=0)
    (Path(path) / "model.safetensors").rename(tmp_path / "model.safetensors")
    (Path(path) / "sub").symlink_to(tmp_path)
    manifest = (Path(path) / "MANIFEST.json").read_text()
    (Path(path) / "MANIFEST.json").write_text(manifest.replace("model.safetensors", "sub/model.safetensors"))
    with pytest.raises(CheckpointError, match="is missing"):
        open_checkpoint(path)


def test_links_and_pipes_of_a_folder_without_a_manifest_are_not_there(tmp_path: Path, precious: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    (folder / "optimizer.pt").symlink_to(precious / "file.txt")
    (folder / "sub").symlink_to(precious)
    os.mkfifo(folder / "model.safetensors")
    (folder / "a\x1b[31mb.json").write_text("{}")  # nor what would colour a terminal
    assert open_any(str(folder)).files == ["trainer_state.json"]
