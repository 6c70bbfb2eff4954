from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from hftrain.report.pictures import MAX_TEXT, shown_media
from hftrain.report.runs import Note

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100


def note(kind: str, path: str, step: int = 1) -> Note:
    return Note(step=step, time=0.0, name="it", text=path, kind=kind)


def test_an_image_stands_in_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (entry,) = shown_media(str(tmp_path), [note("image", "a.png", 7)], 10_000)
    assert entry["image"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert (entry["name"], entry["step"]) == ("it", 7)


def test_a_histogram_is_shown_by_its_counts(tmp_path: Path) -> None:
    np.savez(tmp_path / "h.npz", counts=[1, 2], edges=[0.0, 0.5, 1.0])
    (entry,) = shown_media(str(tmp_path), [note("histogram", "h.npz")], 10_000)
    assert (entry["counts"], entry["edges"]) == ([1, 2], [0, 0.5, 1])


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x" * (MAX_TEXT + 5))
    (entry,) = shown_media(str(tmp_path), [note("text", "t.txt")], 100_000)
    assert (len(entry["text"]), entry["is_cut"]) == (MAX_TEXT, True)


@pytest.mark.parametrize("path", ["../outside.png", "/etc/hostname", "media/../../outside.png", "a\0b", "link.png", ""])
def test_nothing_outside_the_runs_folder_is_read(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "run"
    (folder / "media").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(PNG)
    os.symlink(tmp_path / "outside.png", folder / "link.png")
    (entry,) = shown_media(str(folder), [note("image", path)], 10_000)
    assert entry["why"] == "it lies outside the run's folder"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("image", b"<svg onload='x()'>"),
        ("image", b""),
        ("histogram", b"no archive"),
        ("histogram", b"PK\x03\x04torn"),
        ("video", b"x"),
        ("", b"x"),
    ],
)
def test_what_cannot_be_shown_is_named_with_the_reason(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    (entry,) = shown_media(str(tmp_path), [note(kind, "file")], 10_000)
    assert entry["why"]
    assert not {"image", "counts", "text"} & entry.keys()


def test_a_histogram_that_would_run_code_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "h.npz", counts=np.array([{}], dtype=object), edges=[0.0, 1.0])
    (entry,) = shown_media(str(tmp_path), [note("histogram", "h.npz")], 10_000)
    assert "ValueError" in entry["why"]


def test_the_newest_come_first_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(PNG)
    entries = shown_media(str(tmp_path), [note("image", f"{number}.png", number) for number in range(3)], 450)
    assert ["image" in entry for entry in entries] == [False, True, True]
    assert entries[0]["why"] == "the page would grow too large"


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    (entry,) = shown_media(str(tmp_path), [note("image", "gone.png")], 10_000)
    assert entry["why"] == "it cannot be read (FileNotFoundError)"
