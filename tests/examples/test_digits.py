"""The digits example, shortened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from examples.digits import Digits, as_text, jittered, main


@pytest.mark.slow
def test_a_short_run_reads_most_digits_and_says_so_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = main(["--output-dir", str(tmp_path), "--epochs", "6"])
    lines = capsys.readouterr().out.splitlines()
    assert accuracy > 0.9
    assert lines[-1] == f"held-out accuracy: {accuracy:.4f}"
    assert lines[-2] == f"run folder: {tmp_path}"
    assert re.search(r"reloaded from .*checkpoint-\d+", "\n".join(lines))
    assert re.search(r"read as \d with probability [01]\.\d+; it is a \d", "\n".join(lines))


def test_the_three_parts_share_no_digit_and_hold_every_class() -> None:
    data = Digits(seed=3)
    data.setup("fit")
    parts = [data.train_data(), data.eval_data(), data.test_data()]
    assert [len(part) for part in parts] == [1221, 216, 360]
    assert all(set(part.tensors[1].tolist()) == set(range(10)) for part in parts)
    pictures = [tuple(image.flatten().tolist()) for part in parts for image in part.tensors[0]]
    assert len(set(pictures)) == 1797  # no two pictures of the set are equal, so none is in two parts


def test_the_seed_alone_decides_the_split() -> None:
    splits = []
    for seed in (1, 1, 2):
        data = Digits(seed=seed)
        data.setup("fit")
        splits.append(data.test_data().tensors[0])
    assert torch.equal(splits[0], splits[1])
    assert not torch.equal(splits[0], splits[2])


def test_jitter_keeps_shape_and_range() -> None:
    images = torch.rand(16, 1, 8, 8)
    moved = jittered(images)
    assert moved.shape == images.shape
    assert 0 <= moved.min() <= moved.max() <= 1 + 1e-6
    assert not torch.equal(moved, images)


def test_a_picture_is_drawn_with_two_characters_for_a_pixel() -> None:
    image = torch.zeros(1, 8, 8)
    image[0, 0, 1] = 1.0
    assert as_text(image).splitlines()[0] == "  @@" + 12 * " "
