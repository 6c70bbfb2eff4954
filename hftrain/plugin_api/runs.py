"""Runs on the disk: where their folders are, what trackers were told of them, and how the rest is told later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from hftrain.errors import ConfigurationError
from hftrain.plugin_api.locks import try_lock
from hftrain.plugin_api.secret_texts import surrounding_secrets
from hftrain.plugin_api.spool import EVENTS, read_events, valid_events
from hftrain.plugin_api.tracker import Run, Tracker
from hftrain.plugin_api.values import masked
from hftrain.plugin_api.worker import Delivery, cursor_path

RUNS = "runs"
RUN_FILE = "run.json"


def find_run(path: str) -> str:
    """Return the folder of a run.

    Args:
        path: the folder itself, or an output_dir, of which the newest run is meant.

    Raises:
        ConfigurationError: there is none.
    """
    if os.path.isfile(os.path.join(path, EVENTS)):
        return path
    found = runs_of(path)
    if not found:
        raise ConfigurationError(
            f"{path} is no run, and holds none: there is no {EVENTS} in it or in {RUNS}/. Give an output_dir whose run "
            "reported to a tracker, or one of its folders in runs/."
        )
    return found[-1]


def runs_of(output_dir: str) -> list[str]:
    """Return the folders of the runs of an output_dir, or of the URL of one run, the one written last at the end."""
    url = output_dir.rstrip("/") if "://" in output_dir else None
    if url is not None and os.path.basename(os.path.dirname(url)) == RUNS:
        names = [os.path.basename(url)]
        url = os.path.dirname(os.path.dirname(url))
    else:
        below = os.path.join(local_folder(output_dir), RUNS)
        names = os.listdir(below) if os.path.isdir(below) else []
    spools = [os.path.join(local_folder(output_dir), RUNS, name, EVENTS) for name in names]
    found = [
        spool for spool in spools if os.path.isfile(spool) and (url is None or _output_dir_of(spool) == masked(url))
    ]
    return [os.path.dirname(spool) for spool in sorted(found, key=os.path.getmtime)]


def local_folder(output_dir: str) -> str:
    """Return the folder, on a local disk, whose ``runs`` holds the records: one of the user's cache for a URL."""
    if "://" not in output_dir:
        return output_dir
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "hftrain")


def _output_dir_of(spool: str) -> str:
    starts = (event for event in read_events(spool) if event.type == "start")
    start = next(starts, None)
    return "" if start is None else str(start.data.get("output_dir")).rstrip("/")


def read_remote_ids(folder: str) -> dict[str, str]:
    """Return each tracker's id of the run; empty if nothing is known."""
    try:
        with open(os.path.join(folder, RUN_FILE), encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return {}
    trackers = document.get("trackers") if isinstance(document, dict) else None
    return {str(name): str(found) for name, found in trackers.items()} if isinstance(trackers, dict) else {}


def write_remote_ids(folder: str, run_id: str, remote_ids: Mapping[str, str]) -> None:
    """Keep each tracker's id of the run: whole, or as it was."""
    path = os.path.join(folder, RUN_FILE)
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump({"run_id": run_id, "trackers": dict(remote_ids)}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


def described_run(folder: str) -> Run:
    """Return what a tracker is told when it starts late, as the run's own record has it.

    Raises:
        ConfigurationError: the record has no beginning.
    """
    events = valid_events(read_events(os.path.join(folder, EVENTS)))
    starts = [event for event in events if event.type == "start"]
    if not starts:
        raise ConfigurationError(f"{folder}/{EVENTS} has no event of a run's start, so there is nothing to tell.")
    data: dict[str, Any] = dict(starts[-1].data)
    return Run(
        run_id=os.path.basename(os.path.abspath(folder)),
        name=data.get("name"),
        folder=folder,
        output_dir=data.get("output_dir") or os.path.dirname(os.path.dirname(os.path.abspath(folder))),
        logging_dir=data.get("logging_dir") or folder,
        arguments=data.get("arguments") or {},
        model=data.get("model") or {},
        environment=data.get("environment") or {},
        max_steps=data.get("max_steps") or 0,
        trial=data.get("trial"),
        trial_params=data.get("params") or {},
        group=data.get("group"),
    )


def replay(folder: str, name: str, tracker: Tracker, *, timeout_s: float) -> int:
    """Tell a tracker what it missed of a run; return how many events it still has not heard.

    Args:
        folder: of the run.
        name: of the tracker, as in ``report_to``.
        tracker: which is told.
        timeout_s: how long its service may take.

    Raises:
        ConfigurationError: the run is still training, or is being told to this tracker already.
        TrackerStartError: it did not start.
    """
    with _nobody_else_telling(folder, name):
        return _replay(folder, name, tracker, timeout_s)


def _replay(folder: str, name: str, tracker: Tracker, timeout_s: float) -> int:
    spool = os.path.join(folder, EVENTS)
    last_seq = max((event.seq for event in read_events(spool)), default=0)
    run, remote_ids = described_run(folder), read_remote_ids(folder)
    delivery = Delivery(name, tracker, spool, secrets=surrounding_secrets())
    resumed_step = _step_told(spool, delivery.cursor.seq) if delivery.cursor.seq else None
    delivery.launch(replace(run, remote_id=remote_ids.get(name), resumed_step=resumed_step), last_seq=last_seq)
    delivery.wait_for_start()
    delivery.close(timeout_s=timeout_s)
    if delivery.remote_id is not None:
        write_remote_ids(folder, run.run_id, {**remote_ids, name: delivery.remote_id})
    return delivery.num_left


@contextmanager
def _nobody_else_telling(folder: str, name: str) -> Iterator[None]:
    """Hold the run's record, which others may replay too, and the tracker's cursor, which nobody else may move."""
    with ExitStack() as files:
        record = os.open(os.path.join(folder, EVENTS), os.O_RDONLY)
        files.callback(os.close, record)
        if not try_lock(record, is_shared=True):
            raise ConfigurationError(
                f"{folder} is still training, or its Trainer is still there: what {name} missed is told by that "
                "process as soon as the service answers. Wait until it has ended, then run this again."
            )
        try:
            cursor = os.open(cursor_path(folder, name), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # somebody else's run, which can be read only
            yield
            return
        files.callback(os.close, cursor)
        if not try_lock(cursor):
            raise ConfigurationError(f"{folder} is being told to {name} already. Wait until that has ended.")
        yield


def _step_told(spool: str, seq: int) -> int:
    """Return up to which step what was told holds: a resume that it was not told of may have made some of it void."""
    steps, resumes = [0], []
    for event in read_events(spool):
        if event.seq <= seq:
            steps.append(event.step)
        elif event.type == "resume":
            resumes.append(event.step)
    return min([max(steps), *resumes])
