"""A stand-in for a server of MLflow's REST API, whose answers can be made to fail; whoever asks may say how.

It keeps what it is told as MLflow's own stores do: a point that is told again with the same time is one.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.trackers.loopback import Loopback

FAULTS = ("500", "401", "429", "garbage", "hang", "silent", "cut", "answer_lost")
"""``cut`` closes the connection; ``answer_lost`` does so when what was told is kept; ``hang`` holds it till the
fault ends, ``silent`` for ever."""


class Service(Loopback):
    """Listens on this machine; ``mode`` is "ok" or one of `FAULTS`, for what is asked from now on.

    ``/state`` gives ``failed``, how many requests failed; ``/mode/MODE`` sets the mode.

    Args:
        folder: where artifacts are kept.
        certificate: file of a certificate and its key, to speak https.
    """

    def __init__(self, folder: Path, *, mode: str = "ok", certificate: Path | None = None) -> None:
        super().__init__(_Handler, certificate)
        self.folder, self.mode, self.failed = folder, mode, 0
        self.points: dict[tuple[Any, ...], None] = {}
        self.params: dict[str, str] = {}
        self.status = ""
        self.unheard: list[str] = []
        """Paths that it does not know."""
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.listen()

    def set_mode(self, mode: str) -> None:
        """Answer so from now on; what hangs is cut off."""
        self.mode = mode
        self.released.set()
        self.released = threading.Event()

    def steps(self, name: str) -> list[int]:
        """The steps of the points of a metric, in the order in which they were told."""
        return [point[3] for point in self.points if point[0] == name]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away."""

    def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """What MLflow answers; None to what is not known."""
        experiment = {"experiment_id": "1", "name": "e", "lifecycle_stage": "active", "artifact_location": ""}
        info = {
            "run_id": "r1",
            "run_uuid": "r1",
            "run_name": "n",
            "experiment_id": "1",
            "status": self.status or "RUNNING",
            "artifact_uri": self.folder.as_uri(),
            "lifecycle_stage": "active",
        }
        params = [{"key": key, "value": value} for key, value in self.params.items()]
        answers: dict[str, dict[str, Any]] = {
            "experiments/get-by-name": {"experiment": experiment},
            "experiments/get": {"experiment": experiment},
            "runs/create": {"run": {"info": info, "data": {}}},
            "runs/get": {"run": {"info": info, "data": {"params": params}}},
            "runs/update": {"run_info": info},
            "runs/log-batch": {},
            "runs/log-metric": {},
            "runs/set-tag": {},
        }
        call = path.partition("?")[0].partition("/mlflow/")[2].rpartition("mlflow/")[2]
        if call in ("runs/log-batch", "runs/log-metric"):
            self._keep(asked.get("metrics", [asked] if "key" in asked else []), asked.get("params", []))
        if call == "runs/update":
            self.status = asked.get("status", self.status)
        if call not in answers:
            self.unheard.append(call)
        return answers.get(call)

    def _keep(self, metrics: list[dict[str, Any]], params: list[dict[str, Any]]) -> None:
        for point in metrics:
            self.points[point["key"], int(point["timestamp"]), point["value"], int(point.get("step", 0))] = None
        self.params |= {param["key"]: param["value"] for param in params}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        service = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/mode/"):
            service.set_mode(self.path.removeprefix("/mode/"))
            self._send(200, b"{}")
        elif self.path == "/state":
            self._send(200, json.dumps({"failed": service.failed}).encode())
        elif service.mode == "ok":
            self._answer(body)
        else:
            self._fail(service.mode, body)

    do_POST = do_PATCH = do_PUT = do_HEAD = do_GET

    def _answer(self, body: bytes) -> None:
        with self.server.lock:
            answer = self.server.answer(self.path, json.loads(body or b"{}"))
        self._send(404 if answer is None else 200, json.dumps(answer or {}).encode())

    def _fail(self, mode: str, body: bytes) -> None:
        released = self.server.released
        if mode == "answer_lost":
            with self.server.lock:
                self.server.answer(self.path, json.loads(body or b"{}"))
        self.server.failed += 1
        if mode in ("cut", "answer_lost", "hang", "silent"):
            if mode == "hang":
                released.wait()
            elif mode == "silent":
                threading.Event().wait()
            self.close_connection = True
        elif mode == "garbage":
            self._send(200, b"<html>It works!</html>", "text/html")
        else:
            self._send(int(mode), b'{"error_code": "SOMETHING", "message": "not now"}')

    def _send(self, code: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
