"""Reads the store or server, with MLflow's own client."""

from __future__ import annotations

import os
import re
from typing import Any

_OWN = ("images", "media", "parameters.json")
_STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}


def read(folder: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiments = client.search_experiments()
    asked = os.environ.get("MLFLOW_EXPERIMENT_NAME")  # a server has those of other tests too
    ids = [experiment.experiment_id for experiment in experiments if asked in (None, experiment.name)]
    found = client.search_runs(ids)
    runs = sorted(found, key=lambda run: run.info.start_time)
    trained = [run for run in runs if "hftrain.is_group" not in run.data.tags]
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    artifacts: list[str] = []
    media: list[str] = []
    for run in trained:
        run_id = run.info.run_id
        points |= {point.step: point.value for point in client.get_metric_history(run_id, "loss")}
        params |= run.data.params
        artifacts += [entry.path for entry in client.list_artifacts(run_id) if entry.path not in _OWN]
        media += [entry.path.removeprefix("media/") for entry in client.list_artifacts(run_id, "media")]
        images = (entry.path.removeprefix("images/") for entry in client.list_artifacts(run_id, "images"))
        media += [re.split("[%+]", name)[0] for name in images if name.endswith(".png")]
    names = {run.info.run_id: run.info.run_name for run in runs}
    parents = [run.data.tags.get("mlflow.parentRunId") for run in trained]
    return {
        "points": points,
        "params": params,
        "metrics": {name: value for run in trained for name, value in run.data.metrics.items()},
        "status": _status(trained[-1]),
        "artifacts": artifacts,
        "media": sorted(set(media)),
        "runs": len(trained),
        "ids": [run.info.run_id for run in trained],
        "experiments": sorted({client.get_experiment(run.info.experiment_id).name for run in runs}),
        "names": [run.info.run_name for run in trained],
        "tags": {name: value for run in trained for name, value in run.data.tags.items()},
        "ends": [[_status(run), run.data.tags.get("error")] for run in trained],
        "groups": [names[parent] for parent in parents if parent is not None],
    }


def _status(run: Any) -> str:
    return "pruned" if "pruned" in run.data.tags else _STATUS.get(run.info.status, run.info.status)
