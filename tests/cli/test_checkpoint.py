"""``hftrain checkpoint`` shows, verifies, compares, protects and exports, for a person and for a program."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from hftrain.checkpoint.contents import document_part, files_part, model_part
from hftrain.cli.main import main
from tests.checkpoint.kit import manager, parts, save


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the verb; give (exit code, stdout, stderr), stdout parsed where it is JSON."""

    def run(*words: str) -> tuple[int, Any, str]:
        code = main(["checkpoint", *words])
        told = capsys.readouterr()
        return code, json.loads(told.out) if "--json" in words else told.out, told.err

    return run


def three(folder: Path) -> Path:
    """Two committed checkpoints, of which the first is the best, and a torn one."""
    checkpoints = manager(folder, run_id="20260102-030405-abcdef")
    save(checkpoints, 1)
    state = document_part("trainer_state", {"best_model_checkpoint": f"/moved/{folder.name}/checkpoint-1"})
    checkpoints.save(20, [parts()[0], state], epoch=2.5, samples=80)
    (folder / "checkpoint-30").mkdir()
    (folder / "checkpoint-30/.incomplete").touch()
    return folder


def test_the_list_is_a_table_a_person_can_read(said: Any, tmp_path: Path) -> None:
    code, text, _ = said("list", str(three(tmp_path)))
    lines = text.splitlines()
    assert code == 0
    assert lines[0].split() == ["checkpoint", "step", "epoch", "status", "size", "saved", "(UTC)", "run"]
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["checkpoint-30", "30", "-", "torn"],
        ["checkpoint-1", "1", "0.1", "committed"],
        ["checkpoint-20", "20", "2.5", "committed"],
    ]
    assert lines[2].endswith("20260102-030405-abcdef  best")
    assert lines[4].startswith("checkpoint-30, torn: ")
    assert lines[5].startswith("3 checkpoints, ")
    assert max(map(len, lines[:4])) <= 110


def test_the_list_as_json_has_every_fact(said: Any, tmp_path: Path) -> None:
    _, document, _ = said("list", "--json", str(three(tmp_path)))
    assert [(one["name"], one["status"], one["best"]) for one in document["checkpoints"]] == [
        ("checkpoint-30", "torn", False),
        ("checkpoint-1", "committed", True),
        ("checkpoint-20", "committed", False),
    ]
    newest = document["checkpoints"][-1]
    assert (newest["step"], newest["epoch"], newest["samples"], newest["world_size"]) == (20, 2.5, 80, 1)
    assert newest["bytes"] == sum(
        path.stat().st_size for path in Path(newest["path"]).iterdir() if path.stem != "MANIFEST"
    )


@pytest.mark.parametrize(
    ("marks", "end"),
    [
        (
            [".incomplete"],
            "Unless a run is writing it now: a resume passes it over, and the next commit there removes it.",
        ),
        ([], "A resume passes it over, and the next commit of its run removes it."),
        ([".protected"], "A resume passes it over, and no run removes it, since it is protected."),
        (["MANIFEST.json"], "A resume passes it over, and no run removes it: nothing tells whose it is."),
    ],
)
def test_the_list_says_what_becomes_of_a_torn_one(said: Any, tmp_path: Path, marks: list[str], end: str) -> None:
    path = Path(save(manager(tmp_path), 1))
    (path / "model.safetensors").write_bytes(b"")
    if ".incomplete" in marks:
        (path / "MANIFEST.json").unlink()
    for mark in marks:
        (path / mark).write_bytes(b"")
    line = said("list", str(tmp_path))[1].splitlines()[2]
    assert line.startswith("checkpoint-1, torn: ")
    assert end in line


def test_a_folder_without_checkpoints_says_so_and_is_no_failure(said: Any, tmp_path: Path) -> None:
    assert said("list", str(tmp_path)) == (0, f"{tmp_path} holds no checkpoints.\n", "")


def test_checkpoints_on_a_url_are_listed_and_verified(said: Any) -> None:
    save(manager("memory://listed"), 4)
    assert "checkpoint-4" in said("list", "memory://listed")[1]
    assert said("verify", "memory://listed")[0] == 0
    fsspec.filesystem("memory").rm("/listed", recursive=True)


def test_a_name_that_could_steer_the_terminal_does_not(said: Any, tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    Path(path, "\x1b[2Jgone.txt").touch()
    text = said("verify", path)[1]
    assert "\x1b" not in text
    assert "\\x1b[2Jgone.txt" in text


def test_verify_is_0_for_what_is_whole(said: Any, tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    code, text, _ = said("verify", path)
    assert (code, text.startswith(f"good  {path}: 2 files, ")) == (0, True)


def test_verify_is_1_and_names_every_file_that_is_bad(said: Any, tmp_path: Path) -> None:
    path = Path(save(manager(tmp_path), 1))
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[:-1] + b"?")
    (path / "trainer_state.json").unlink()
    (path / "notes.txt").touch()
    code, document, _ = said("verify", str(path), "--json")
    (found,) = document["checkpoints"]
    assert (code, document["good"]) == (1, False)
    assert [(fault["file"], fault["problem"][:17]) for fault in found["faults"]] == [
        ("model.safetensors", "changed after it "),
        ("trainer_state.json", "is missing"),
    ]
    assert found["unlisted"] == ["notes.txt"]
    assert "BAD" in said("verify", str(path))[1]


def test_verify_of_an_output_folder_looks_at_all_in_it(said: Any, tmp_path: Path) -> None:
    code, document, _ = said("verify", str(three(tmp_path)), "--json")
    assert (code, [one["good"] for one in document["checkpoints"]]) == (1, [False, True, True])


def test_verify_fails_where_there_is_nothing_to_verify(said: Any, tmp_path: Path) -> None:
    assert said("verify", str(tmp_path))[0] == 1
    (tmp_path / "trainer_state.json").write_text("{}")
    code, text, _ = said("verify", str(tmp_path))
    assert (code, "no manifest" in text) == (1, True)


def test_a_protected_checkpoint_is_marked_until_that_is_undone(said: Any, tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    assert said("protect", path)[0] == 0
    assert said("list", str(tmp_path), "--json")[1]["checkpoints"][0]["protected"] is True
    assert said("verify", path, "--json")[1]["checkpoints"][0]["unlisted"] == []
    assert said("protect", path, "--undo", "--json") == (0, {"path": path, "protected": False}, "")
    assert said("list", str(tmp_path), "--json")[1]["checkpoints"][0]["protected"] is False


def test_only_a_committed_checkpoint_can_be_protected(said: Any, tmp_path: Path) -> None:
    code, _, message = said("protect", str(three(tmp_path) / "checkpoint-30"))
    assert (code, "begun and never committed" in message) == (1, True)
    assert said("protect", str(tmp_path / "checkpoint-99"))[0] == 1


def test_two_saves_of_one_state_are_the_same(said: Any, tmp_path: Path) -> None:
    one, other = save(manager(tmp_path / "a"), 1), save(manager(tmp_path / "b"), 1)
    code, text, _ = said("diff", one, other, "--exit-code")
    assert (code, text.splitlines()[-1]) == (0, "The same, bit for bit.")


def test_a_difference_is_shown_and_is_1_only_where_that_is_asked_for(said: Any, tmp_path: Path) -> None:
    one, other = save(manager(tmp_path), 1), save(manager(tmp_path), 2)
    code, text, _ = said("diff", one, other)
    assert code == 0
    assert "weight: int64[1], 1 of 1 numbers differ, by 1 at most" in text
    assert "global_step: 1 -> 2" in text
    assert text.splitlines()[-1] == "2 of 2 parts differ."
    assert said("diff", one, other, "--exit-code")[0] == 1


def test_many_differences_are_cut_short_unless_all_are_asked_for(said: Any, tmp_path: Path) -> None:
    for step in (1, 2):
        weights = {f"w{number}": torch.full((2,), float(step * number)) for number in range(1, 15)}
        manager(tmp_path).save(step, [model_part(weights)], epoch=0.0, samples=0)
    paths = [str(tmp_path / f"checkpoint-{step}") for step in (1, 2)]
    text = said("diff", *paths)[1]
    assert "w14: float32[2], 2 of 2 numbers differ, by 14 at most" in text
    assert "w4:" not in text
    assert "and 4 more (--all shows them)" in text
    assert "w4:" in said("diff", *paths, "--all")[1]


def test_an_export_says_what_it_wrote_and_what_is_lost(said: Any, tmp_path: Path) -> None:
    path = save(manager(tmp_path), 1)
    code, text, message = said("export", path, "--to", "transformers", "-o", str(tmp_path / "out"))
    assert (code, "trainer_state.json" in text, "no optimizer" in message) == (0, True, True)
    code, document, _ = said("export", path, "--to", "transformers", "-o", str(tmp_path / "more"), "--json")
    assert set(document["files"]) == {"model.safetensors", "trainer_state.json"}
    assert said("export", path, "--to", "transformers", "-o", str(tmp_path / "out"))[0] == 2


class Hostile:
    """A pickle of it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def sealed(folder: Path, files: dict[str, bytes]) -> Path:
    """A checkpoint whose manifest fits files that a stranger made."""
    (folder / "made").mkdir()
    return Path(manager(folder / "made").save(1, [*parts(), files_part("theirs", files)], epoch=0.0, samples=0))


def traversal(folder: Path) -> Path:
    path = sealed(folder, {})
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"]["../../secret"] = manifest["files"]["model.safetensors"]
    (path / "MANIFEST.json").write_text(json.dumps(manifest))
    return path


def pickles(folder: Path) -> Path:
    """The reference's files, each a pickle that calls something."""
    (folder / "theirs").mkdir()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
        torch.save(Hostile(folder / "called"), folder / "theirs" / name)
    (folder / "theirs/trainer_state.json").write_text("{}")
    return folder / "theirs"


HOSTILE = {
    "a path outside": traversal,
    "pickles": pickles,
    "pickles under our names": lambda folder: sealed(
        folder, {"optimizer.safetensors": pickle.dumps(Hostile(folder / "called"))}
    ),
    "a huge header": lambda folder: sealed(folder, {"optimizer.safetensors": struct.pack("<Q", 1 << 60) + b"{}"}),
    "deep JSON": lambda folder: sealed(folder, {"scheduler.json": b"[" * 10**6}),
    "tags": lambda folder: sealed(folder, {"scheduler.json": b'{"$call": ["os.system", "true"]}'}),
    "no optimizer": lambda folder: sealed(folder, {"optimizer.json": b"[[], 1]"}),
    "an index of nothing": lambda folder: sealed(
        folder, {"model.safetensors.index.json": b'{"weight_map": {"w": "../x"}}'}
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_strangers_checkpoint_runs_nothing_and_ends_in_a_line(kind: str, said: Any, tmp_path: Path) -> None:
    path = str(HOSTILE[kind](tmp_path))
    ours = save(manager(tmp_path / "ours"), 1)
    for words in (["list", path], ["verify", path], ["diff", path, ours], ["diff", ours, path]):
        assert said(*words)[0] in (0, 1)
    code, _, message = said("export", path, "--to", "transformers", "-o", str(tmp_path / "out"))
    assert code == 1 or kind == "an index of nothing"
    assert "Traceback" not in message
    assert not (tmp_path / "called").exists()
    assert not any(name.suffix in (".bin", ".pt") for name in tmp_path.glob("out/*"))
