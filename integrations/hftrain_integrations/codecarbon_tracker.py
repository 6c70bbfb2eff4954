"""CodeCarbon: the energy that a run takes, and its emissions."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Run, Status, Tracker


class CodecarbonTracker(Tracker):
    """Measures the whole process while the run goes on, and writes ``emissions.csv``: one row a run.

    Environment:
        CODECARBON_COUNTRY_ISO_CODE: three letters; it is measured without a network then. Without it the client asks
            the network where this machine stands, and says Canada if nobody answers.
        CODECARBON_OUTPUT_DIR and the others: as the client reads them.

    A resumed run has a row of its own.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("codecarbon>=2.8",)
    extra: ClassVar[str] = "codecarbon"

    _measure: Any = None

    def start(self, run: Run) -> str | None:
        """Begin to measure."""
        import codecarbon

        settings: dict[str, Any] = {"project_name": run.name or run.run_id, "experiment_id": run.run_id}
        settings["output_dir"] = os.environ.get("CODECARBON_OUTPUT_DIR") or run.output_dir
        settings["allow_multiple_runs"] = True
        os.makedirs(settings["output_dir"], exist_ok=True)
        country = os.environ.get("CODECARBON_COUNTRY_ISO_CODE")
        if country:
            self._measure = codecarbon.OfflineEmissionsTracker(country_iso_code=country, **settings)
        else:
            self._measure = codecarbon.EmissionsTracker(**settings)
        self._measure.start()
        return run.run_id

    def finish(self, status: Status, error: str | None) -> None:
        """Write the row."""
        self._measure.stop()
