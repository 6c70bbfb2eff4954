"""MLflow: a tracking server, or a store of files or sqlite."""

from __future__ import annotations

from typing import ClassVar

from hftrain_integrations._mlflow import URI, MlflowRun


class MlflowTracker(MlflowRun):
    """Logs to an MLflow run: the one that is active, or one of its own.

    Environment:
        MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID: where; as the client reads them.
        MLFLOW_RUN_ID: a run that is there already, to go on with.
        MLFLOW_NESTED_RUN: "1" begins a run inside the active one.
        MLFLOW_TAGS: a JSON object of tags.
        MLFLOW_FLATTEN_PARAMS: "1" logs nested parameters one by one, as ``outer/inner``.
        MLFLOW_MAX_LOG_PARAMS: how many parameters are logged at most; parameters.json has all of them.
        HF_MLFLOW_LOG_ARTIFACTS: "1" keeps every checkpoint as artifacts of the run.
        MLFLOW_HTTP_REQUEST_MAX_RETRIES: "1" where it is not set: a server that is away is tried again later.
        MLFLOW_HTTP_REQUEST_TIMEOUT: "10", seconds, where it is not set and no checkpoints are kept.

    Metrics keep their names. A resumed run goes on in the same MLflow run; steps that are trained again have two
    points in its history, of which the later one counts. Trials of a search stand under a run of their group's name.
    """

    requires: ClassVar[tuple[str, ...]] = ("mlflow>=2.9",)
    extra: ClassVar[str] = "mlflow"
    hint: ClassVar[str] = f"{URI} and its credentials, or set {URI}=sqlite:///mlflow.db"
