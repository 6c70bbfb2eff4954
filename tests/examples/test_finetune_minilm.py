"""The fine-tuning example, shortened, beats the bag of words that it is printed beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.finetune_minilm import PACKAGES, docstrings_of, main, read_docstrings


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_short_fine_tune_beats_the_bag_of_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--per-package", "8", "--held-out", "12", "--epochs", "6"]
    minilm, bag = main(["--output-dir", str(tmp_path), *short])
    assert minilm > bag > 2 / len(PACKAGES)
    assert f"MiniLM fine-tuned {minilm:.4f}, bag of words {bag:.4f}" in capsys.readouterr().out


def test_held_out_docstrings_are_none_of_those_to_learn_from() -> None:
    train, test = read_docstrings(per_package=4, held_out=4, seed=1)
    assert set(train.texts).isdisjoint(test.texts)
    assert len(train.texts) == len(test.texts) == 4 * len(PACKAGES)


def test_a_docstring_does_not_name_its_package() -> None:
    assert not any("tarfile" in text.lower() for text in docstrings_of("tarfile"))
