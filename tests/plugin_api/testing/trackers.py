"""Trackers that keep to the contract, and those that each break one thing of it."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import threading
from collections.abc import Mapping
from typing import Any

from hftrain.plugin_api.tracker import Media, Run, Status, Tracker


class Good(Tracker):
    """Keeps its points in a file, as a service would."""

    api = 1

    def start(self, run: Run) -> str | None:
        self.path = os.path.join(run.folder, "points.json")
        self.points = self.read(self.path)
        if run.resumed_step is not None:
            self.points = self.kept(self.points, run.resumed_step)
        return run.remote_id or run.run_id

    def kept(self, points: list[Any], resumed_step: int) -> list[Any]:
        return [point for point in points if point[0] <= resumed_step]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.points += [[step, name, value] for name, value in metrics.items()]

    def finish(self, status: Status, error: str | None) -> None:
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump(self.points, file)

    @staticmethod
    def read(path: str) -> list[Any]:
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8") as file:
            points: list[Any] = json.load(file)
        return points


class OtherApi(Good):
    api = 2


class Lacking(Good):
    requires = ("no-such-net>=2",)


class TakesArguments(Good):
    def __init__(self, name: str) -> None:
        self.name = name


class AsksTheNetwork(Good):
    def unavailable_because(self) -> str | None:
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=1)
        except OSError:
            return "no server"
        return None


class FailsToStart(Good):
    def start(self, run: Run) -> str | None:
        raise OSError("no")


class AnotherRun(Good):
    def start(self, run: Run) -> str | None:
        super().start(run)
        return "second" if run.remote_id else "first"


class NumberAsId(Good):
    def start(self, run: Run) -> Any:
        super().start(run)
        return 7


class Refuses(Good):
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if any(math.isnan(value) for value in metrics.values()):
            raise ValueError("nan")


class NeedsARow(Good):
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        super().log(metrics, step)
        self.last = step

    def finish(self, status: Status, error: str | None) -> None:
        super().finish(status, f"{error} at {self.last}")


class NoPictures(Good):
    def log_media(self, media: Media) -> None:
        raise NotImplementedError(media.kind)


class LosesOne(Good):
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        super().log({name: value for name, value in metrics.items() if name != "train/metric_17"}, step)


class CountsForItself(Good):
    count = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.count += 1
        super().log(metrics, self.count)


class TellsTwice(Good):
    def kept(self, points: list[Any], resumed_step: int) -> list[Any]:
        return points


class OutOfOrder(Good):
    def finish(self, status: Status, error: str | None) -> None:
        self.points.reverse()
        super().finish(status, error)


class TellsSecrets(Good):
    def finish(self, status: Status, error: str | None) -> None:
        super().finish(status, error)
        with open(f"{self.path}.env", "w", encoding="utf-8") as file:
            file.write("\n".join(os.environ.values()))


class DrawsNumbers(Good):
    def start(self, run: Run) -> str | None:
        random.random()
        return super().start(run)


class LeavesAThread(Good):
    def start(self, run: Run) -> str | None:
        threading.Thread(target=threading.Event().wait, args=(5,), name="uploader", daemon=False).start()
        return super().start(run)


class TakesTheSignal(Good):
    def unavailable_because(self) -> str | None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        return None
