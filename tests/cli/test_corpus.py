"""Every file of the corpus, under every verb that reads it: a line and an exit code, and nothing of it is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftrain.cli.main import main
from tests.checkpoint.corpus.make import FOLDER, PICKLED_FILES, TRAP, corpus
from tests.checkpoint.hostile import whole_checkpoint
from tests.checkpoint.test_corpus import put

# What one must know the live schedule for, or what the reference does not read.
NOT_REFUSED = {"scheduler.json", "run.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_checkpoint(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("file", sorted(corpus()))
def test_whatever_a_stranger_puts_under_a_name_ends_in_a_line_and_an_exit_code(
    file: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for case in sorted((FOLDER / file).iterdir()):
        folder = put(file, case.read_bytes(), tmp_path / case.name, whole)
        assert main(["checkpoint", "list", str(folder.parent)]) == 0
        for words in (["verify", str(folder)], ["diff", str(folder), str(whole)], ["diff", str(whole), str(folder)]):
            assert main(["checkpoint", *words]) in (0, 1), case
        target = tmp_path / "exported" / case.name
        code = main(["checkpoint", "export", str(folder), "--to", "transformers", "-o", str(target)])
        assert (code == 1 and not target.exists()) or file in NOT_REFUSED, case
        assert max(map(len, capsys.readouterr().err.splitlines()), default=0) < 3000
        assert not Path(TRAP).exists(), case


def test_a_pickle_that_came_along_is_not_exported(whole: Path, tmp_path: Path) -> None:
    assert main(["checkpoint", "export", str(whole), "--to", "transformers", "-o", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} & set(PICKLED_FILES) == {
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
    }
