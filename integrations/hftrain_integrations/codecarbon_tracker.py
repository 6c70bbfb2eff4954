"""CodeCarbon: the energy that a run takes, and its emissions."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from hftrain.plugin_api.tracker import Artifact, Run, Status, Tracker


class CodecarbonTracker(Tracker):
    """Measures the whole process while the run goes on, and writes ``emissions.csv``: one row a run.

    Environment:
        CODECARBON_COUNTRY_ISO_CODE: three letters; it is measured without a network then. Without it the client asks
            the network where this machine stands, and says Canada if nobody answers.
        CODECARBON_OUTPUT_DIR and the others: as the client reads them; output_dir without it.

    A resumed run has a row of its own, with the same experiment_id; that of a killed process reaches up to its last
    checkpoint.
    """

    api: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("codecarbon>=2.8",)
    extra: ClassVar[str] = "codecarbon"

    _measure: Any = None

    def load(self) -> None:
        """Import the client."""
        import codecarbon  # noqa: F401

    def start(self, run: Run) -> str | None:
        """Begin to measure.

        Raises:
            ValueError: CODECARBON_COUNTRY_ISO_CODE names no country; the client would measure nothing.
        """
        import codecarbon
        from codecarbon.input import DataSource

        country = os.environ.get("CODECARBON_COUNTRY_ISO_CODE")
        if country and country.upper() not in DataSource().get_global_energy_mix_data():
            raise ValueError(f"CODECARBON_COUNTRY_ISO_CODE={country!r} is no code of three letters, such as FRA")
        folder = os.environ.get("CODECARBON_OUTPUT_DIR") or (run.folder if "://" in run.output_dir else run.output_dir)
        os.makedirs(folder, exist_ok=True)
        settings: dict[str, Any] = {
            "project_name": run.trial or run.name or run.run_id,
            "experiment_id": run.run_id,
            "experiment_name": run.group,
            "allow_multiple_runs": True,  # a lock file in /tmp would turn every run but one to silence
            "on_csv_write": "update",
        }
        settings = {key: value for key, value in settings.items() if f"CODECARBON_{key.upper()}" not in os.environ}
        settings["output_dir"] = folder
        if country:
            self._measure = codecarbon.OfflineEmissionsTracker(country_iso_code=country, **settings)
        else:
            self._measure = codecarbon.EmissionsTracker(**settings)
        self._measure.start()
        return run.run_id

    def log_artifact(self, artifact: Artifact) -> None:
        """Write the row up to now, with each checkpoint: a killed process would leave none."""
        if artifact.is_checkpoint:
            self._measure.flush()

    def finish(self, status: Status, error: str | None) -> None:
        """Write the row."""
        self._measure.stop()
