"""Azure Machine Learning: its MLflow server, as a job of it sets that up."""

from __future__ import annotations

import os
from typing import ClassVar

from hftrain.plugin_api.tracker import Run
from hftrain_integrations._mlflow import MlflowRun


class AzureMlTracker(MlflowRun):
    """Logs to the workspace's MLflow server.

    Environment:
        MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN, MLFLOW_RUN_ID, MLFLOW_EXPERIMENT_NAME: a job has them set; elsewhere
            the workspace's page shows the address, ``azureml://...``.
        The others: as of MLflow.
    """

    requires: ClassVar[tuple[str, ...]] = ("azureml-mlflow>=1.57", "mlflow-skinny>=2.9")
    extra: ClassVar[str] = "azureml"
    hint: ClassVar[str] = "MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN; with report_to='mlflow' it can be a file"

    def unavailable_because(self) -> str | None:
        """Say that no workspace is named."""
        return None if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("azureml://") else _HINT

    def start(self, run: Run) -> str | None:
        """Begin or go on with the run.

        Raises:
            ValueError: MLFLOW_TRACKING_URI names no workspace.
        """
        if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("azureml://"):
            raise ValueError(_HINT)
        return super().start(run)


_HINT = "set MLFLOW_TRACKING_URI to the workspace's azureml:// address, as a job of it does"
