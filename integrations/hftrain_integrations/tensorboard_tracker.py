"""TensorBoard: event files in the run's logging_dir."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Media, Run, Status, Tracker
from hftrain.plugin_api.values import flat


class TensorBoardTracker(Tracker):
    """Writes event files.

    Environment:
        TENSORBOARD_LOGGING_DIR: where, instead of ``logging_dir``.

    A resumed run goes on in the folder that it began; points of steps that are trained again are purged. A trial of a
    search has a folder of its own. Folders and checkpoints are not kept: event files have no place for them.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("tensorboard>=2.10",)
    extra: ClassVar[str] = "tensorboard"

    _writer: Any = None
    _step = 0

    def load(self) -> None:
        """Import what writes event files."""
        import torch.utils.tensorboard  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Open an event file, and write what the run is made of."""
        from torch.utils.tensorboard import SummaryWriter

        base = os.environ.get("TENSORBOARD_LOGGING_DIR") or run.logging_dir
        known = run.folder_of_id(base)
        folder = known or base
        if known is None:
            folder = os.path.join(folder, *filter(None, (run.group, run.trial)))  # TensorBoard groups by folder
        purge_step = None if run.resumed_step is None else run.resumed_step + 1
        self._writer = SummaryWriter(log_dir=folder, purge_step=purge_step)
        if known is None:
            self._write_facts(run)
        return folder

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the numbers of a step; they are on the disk when this returns."""
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_media(self, media: Media) -> None:
        """Write a picture, a text or a histogram."""
        import numpy as np

        if media.kind == "text":
            with open(media.path, encoding="utf-8") as file:
                self._writer.add_text(media.name, file.read(), media.step)
        elif media.kind == "image":
            from PIL import Image

            with Image.open(media.path) as image:
                self._writer.add_image(media.name, np.asarray(image.convert("RGB")), media.step, dataformats="HWC")
        else:
            with np.load(media.path) as values:
                counts, edges = values["counts"], values["edges"]
            middles = (edges[:-1] + edges[1:]) / 2
            self._writer.add_histogram_raw(
                media.name,
                min=float(edges[0]),
                max=float(edges[-1]),
                num=int(counts.sum()),
                sum=float((middles * counts).sum()),
                sum_squares=float((middles**2 * counts).sum()),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=media.step,
            )
        self._writer.flush()

    def finish(self, status: Status, error: str | None) -> None:
        """Write how the run ended, and close the file."""
        self._writer.add_text("status", status if error is None else f"{status}: {error}", self._step)
        self._writer.close()

    def _write_facts(self, run: Run) -> None:
        from torch.utils.tensorboard.summary import hparams

        self._writer.add_text("args", json.dumps(run.arguments, indent=2))
        for name, facts in (("model_config", run.model), ("trial", run.trial_params), ("environment", run.environment)):
            if facts:
                self._writer.add_text(name, json.dumps(facts, indent=2))
        chosen = {**_scalars(run.arguments), **_scalars(run.trial_params)}
        # Not add_hparams, which opens an event file in a folder of its own, shown as another run.
        for summary in hparams(chosen, {}):  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(summary)
        self._writer.flush()


def _scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flat(values).items() if isinstance(value, (bool, int, float, str))}
