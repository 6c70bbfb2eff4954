"""The run's own record on disk, which ``hftrain report`` and ``hftrain watch`` read; needs nothing."""

from __future__ import annotations

from typing import ClassVar

from hftrain.plugin_api.tracker import Tracker


class LocalTracker(Tracker):
    """Keeps the run's events in ``<output_dir>/runs/<run_id>/``, as every tracker's run does."""

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
