"""Trains three times in one process, as a user of MLflow does who begins runs too; prints their ids as JSON.

The server and the experiment are those of the environment, and each run has variables of its own.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlflow
from train import loopback_only, train

FIRST = {"MLFLOW_TAGS": '{"release": "1.2"}', "MLFLOW_FLATTEN_PARAMS": "1"}
NESTED = {"MLFLOW_NESTED_RUN": "1", "MLFLOW_MAX_LOG_PARAMS": "3"}


def main() -> None:
    """Train inside an active run; inside it, but in a run of its own; in one that is there, but not active."""
    loopback_only()
    with mlflow.start_run(run_name="mine") as active:
        train_with("inside", FIRST)
        status = mlflow.MlflowClient().get_run(active.info.run_id).info.status
        mlflow.log_metric("after", 1.0)
        train_with("nested", NESTED)
    there = mlflow.MlflowClient().create_run(active.info.experiment_id, run_name="there")
    train_with("named", {"MLFLOW_RUN_ID": there.info.run_id})
    print(json.dumps({"active": active.info.run_id, "status": status, "there": there.info.run_id}))


def train_with(folder: str, variables: Mapping[str, str]) -> None:
    """Train 20 steps with these variables; with a mapping among the first run's parameters."""
    options = argparse.Namespace(
        tracker="mlflow",
        output_dir=folder,
        resume=False,
        odd=folder == "inside",
        kill_at=None,
        fail_at=None,
        interrupt_at=None,
        told_first=False,
    )
    with _set(variables):
        train(options)


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


if __name__ == "__main__":
    main()
