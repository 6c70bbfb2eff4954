from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from hftrain.callbacks.tracking import Tracking, TrackingSettings
from hftrain.hardware.seeding import rng_state, set_rng_state, set_seed
from hftrain.plugin_api.tracker import Run, Tracker


class Seeds(Tracker):
    """Seeds everything as it begins, as ClearML's client does."""

    def start(self, run: Run) -> str | None:
        set_seed(1337)
        return None


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_a_client_that_seeds_as_it_begins_changes_no_number_of_the_training(tmp_path: Path) -> None:
    before = rng_state()
    expected = draw()
    set_rng_state(before)
    tracking = Tracking({"seeds": Seeds}, TrackingSettings())
    tracking.begin(Run(run_id="r", folder=str(tmp_path), output_dir=str(tmp_path)))
    assert draw() == expected
    tracking.end("finished", step=0)
