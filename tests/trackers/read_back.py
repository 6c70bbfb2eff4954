"""Reads, in a fresh process, what a tracker's own library has kept: ``python read_back.py TRACKER FOLDER``, as JSON.

The document: ``points`` ([step, loss]), ``params``, ``status``, ``artifacts``, ``runs`` (how many there are).
"""

from __future__ import annotations

import csv
import glob
import json
import os
import struct
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tensorboard(folder: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logs,) = {os.path.dirname(path) for path in glob.glob(f"{folder}/out/runs/*/events.out*")}
    found = EventAccumulator(logs, size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()

    def text(tag: str) -> str:
        return str(found.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode())

    return {
        "points": [[event.step, event.value] for event in found.Scalars("train/loss")],
        "params": {**json.loads(text("args")), **json.loads(text("model_config"))},
        "status": text("status"),
        "artifacts": [],
        "runs": 1,
    }


def wandb(folder: str) -> dict[str, Any]:
    paths = sorted(glob.glob(f"{folder}/wandb/offline-run-*/*.wandb"))
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    artifacts, ids, code = [], set(), None
    for path in paths:
        for record in _wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = _wandb_items(record.history.item)
                if "train/loss" in row:
                    points[row["train/global_step"]] = row["train/loss"]
            elif kind in ("config", "run"):
                params |= _wandb_items((record.config if kind == "config" else record.run.config).update)
                ids |= {record.run.run_id} if kind == "run" else set()
            elif kind == "summary":
                summary |= _wandb_items(record.summary.update)
            elif kind == "exit":
                code = record.exit.exit_code
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                artifacts.append(record.request.log_artifact.artifact.name)
            elif kind == "artifact":
                artifacts.append(record.artifact.name)
    status = f"{summary.get('status')} {code}"
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": status,
        "artifacts": sorted(artifacts),
        "runs": len(ids),
    }


def _wandb_items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _wandb_records(path: str) -> Iterator[Any]:
    """LevelDB's log framing around wandb's own protobuf: a header of 7 bytes, then blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    with open(path, "rb") as file:
        data = file.read()
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:
            place += left
            continue
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def mlflow(folder: str) -> dict[str, Any]:
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


def dvclive(folder: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    with open(f"{folder}/dvclive/plots/metrics/train/loss.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with open(f"{folder}/dvclive/params.yaml", encoding="utf-8") as file:
        params = dict(YAML(typ="safe").load(file))
    with open(f"{folder}/dvclive/metrics.json", encoding="utf-8") as file:
        summary = json.load(file)
    points = {int(row["step"]): float(row["loss"]) for row in rows}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": summary.get("status"),
        "artifacts": [],
        "runs": 1,
    }


def comet_ml(folder: str) -> dict[str, Any]:
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    others: dict[str, Any] = {}
    artifacts, keys = set(), set()
    for path in sorted(glob.glob(f"{folder}/comet/*.zip"), key=os.path.getmtime):
        with zipfile.ZipFile(path) as archive:
            keys.add(json.loads(archive.read("experiment.json"))["offline_id"])
            messages = [json.loads(line) for line in archive.read("messages.json").decode().splitlines()]
        for message in messages:
            payload = message["payload"]
            if message["type"] == "metric_msg" and payload["metric"]["metricName"] == "train/loss":
                points[payload["metric"]["step"]] = payload["metric"]["metricValue"]
            elif message["type"] == "parameter_msg":
                for param in payload.get("params") or [payload["param"]]:
                    params[param["paramName"]] = param["paramValue"]
            elif message["type"] == "log_other":
                others[payload["key"]] = payload["value"]
            elif message["type"] == "file_upload":
                artifacts.add(payload["additional_params"]["fileName"].partition("/")[0])
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": others.get("status"),
        "artifacts": sorted(artifacts),
        "runs": len(keys),
    }


def clearml(folder: str) -> dict[str, Any]:
    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    artifacts = set()
    for path in sorted(glob.glob(f"{folder}/cache/offline/*.zip"), key=os.path.getmtime):
        with zipfile.ZipFile(path) as archive:
            task = json.loads(archive.read("task.json"))
            lines = archive.read("metrics.jsonl").decode().splitlines()
        task = task.get("task", task)
        for line in lines:
            for event in json.loads(line):
                if (event.get("metric"), event.get("variant")) == ("train", "loss"):
                    points[event["iter"]] = event["value"]
        for section in task["hyperparams"].values():
            params |= {name: item["value"] for name, item in section.items()}
        configuration = task.get("configuration", {}).get("Model Configuration", {}).get("value", "")
        params |= dict(line.split(" = ") for line in configuration.splitlines() if " = " in line)
        artifacts |= {one["key"] for one in task.get("execution", {}).get("artifacts", [])}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": params.get("status"),
        "artifacts": sorted(artifacts),
        "runs": None,
    }


def swanlab(folder: str) -> dict[str, Any]:
    import yaml
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    points: dict[int, float] = {}
    params: dict[str, Any] = {}
    ids = set()
    for path in sorted(glob.glob(f"{folder}/swanlog/run-*/*.swanlab"), key=os.path.getmtime):
        reader = DataStoreReader()
        reader.open(path)
        while (raw := reader.scan()) is not None:
            record = Record()
            record.ParseFromString(raw)
            kind = record.WhichOneof(record.DESCRIPTOR.oneofs[0].name)
            if kind == "start":
                ids.add(record.start.id)
            if kind == "scalar" and record.scalar.key == "train/loss":
                points[record.scalar.step] = record.scalar.value.number
        with open(f"{os.path.dirname(path)}/files/config.yaml", encoding="utf-8") as file:
            params |= {name: row["value"] for name, row in yaml.safe_load(file).items()}
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": params.get("run_status"),
        "artifacts": [],
        "runs": len(ids),
    }


def trackio(folder: str) -> dict[str, Any]:
    import sqlite3

    (path,) = glob.glob(f"{folder}/trackio/*.db")
    store = sqlite3.connect(path)
    points: dict[int, float] = {}
    status = None
    names = set()
    for name, step, text in store.execute("select run_name, step, metrics from metrics order by rowid"):
        row = json.loads(text)
        names.add(name)
        status = row.get("status", status)
        if "train/loss" in row:
            points[step] = row["train/loss"]
    params: dict[str, Any] = {}
    for (text,) in store.execute("select config from configs"):
        params |= json.loads(text)
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": params,
        "status": status,
        "artifacts": [],
        "runs": len(names),
    }


def neptune(folder: str) -> dict[str, Any]:
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import LogFloats, Operation

    points: dict[float, float] = {}
    values: dict[str, Any] = {}
    artifacts = set()
    for place in sorted(glob.glob(f"{folder}/.neptune/offline/run__*"), key=os.path.getmtime):
        queue = DiskQueue(Path(place), lambda item: item.to_dict(), Operation.from_dict, threading.RLock())
        while (element := queue.get()) is not None:
            operation = element.obj
            if isinstance(operation, LogFloats) and operation.path == ["finetuning", "train", "loss"]:
                points |= {point.step: point.value for point in operation.values}
            elif hasattr(operation, "value"):
                values[operation.path[-1]] = operation.value
            elif type(operation).__name__ == "UploadFileSet":
                artifacts |= {operation.path[-1]} - {"files"}  # "files" is the client's own record of the source
        queue.close()
    return {
        "points": [[step, points[step]] for step in sorted(points)],
        "params": values,
        "status": values.get("status"),
        "artifacts": sorted(artifacts),
        "runs": None,
    }


def codecarbon(folder: str) -> dict[str, Any]:
    with open(f"{folder}/out/emissions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {"energy": [float(row["energy_consumed"]) for row in rows], "ids": [row["experiment_id"] for row in rows]}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2]), default=str))
