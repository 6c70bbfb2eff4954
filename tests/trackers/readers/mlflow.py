"""Reads the store or server, with MLflow's own client."""

from __future__ import annotations

from typing import Any


def read(folder: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    (run,) = runs
    points = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss")}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": run.data.params,
        "status": run.info.status,
        "artifacts": sorted(entry.path for entry in client.list_artifacts(run.info.run_id)),
        "runs": len(runs),
    }
