"""A real MLflow server on this machine, and a stand-in for services that put something in front of one."""

from __future__ import annotations

import email
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.trackers.environments import environment
from tests.trackers.loopback import Loopback

USER = {
    **dict.fromkeys(("full_name", "avatar_url", "public_email", "website", "company", "description"), ""),
    **{"id": 1, "login": "me", "username": "me"},
}
REPOSITORY = {
    **dict.fromkeys(("description", "html_url", "ssh_url", "clone_url", "website", "created_at", "updated_at"), ""),
    **dict.fromkeys(("private", "fork", "empty", "mirror"), False),
    **dict.fromkeys(("size", "stars_count", "forks_count", "watchers_count", "open_issues_count"), 0),
    **{"id": 1, "owner": USER, "name": "demo", "full_name": "me/demo", "parent": None, "default_branch": "main"},
    "permissions": {"admin": True, "push": True, "pull": True},
}
COMMIT = {
    **dict.fromkeys(("author", "committer", "added", "removed", "modified")),
    **{"id": "abc", "message": "m", "url": "", "timestamp": ""},
}


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run ``mlflow server`` on SQLite, which keeps artifacts too; give its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts"]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        "1",
        *store,
    ]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment("mlflow", folder),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait_for(address, process, folder / "server.log")
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its own end takes many seconds, and nothing of it is kept


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(log.read_text())


def asked(address: str, call: str, **values: Any) -> Any:
    """What an MLflow server answers to a call of its REST API; one without values is a GET."""
    body = json.dumps(values).encode() if values else None
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{call}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


class Front(Loopback):
    """Passes what it is asked of MLflow on to a server of it; keeps the files uploaded to a DagsHub repository.

    Clients that know no ``mlflow-artifacts:`` are given addresses of the server for artifacts.

    Args:
        server: the address of the MLflow server.
        certificate: file of a certificate and its key, to speak https.
    """

    def __init__(self, server: str, certificate: Path | None = None) -> None:
        super().__init__(_Handler, certificate)
        self.behind = server
        self.speaks_https = certificate is not None
        self.files: dict[str, bytes] = {}
        """Uploaded files by ``branch/path``."""
        self.keys: set[str | None] = set()
        """What those who asked had for their key."""
        self.paths: set[str] = set()
        self.listen()

    def repository(self, path: str, kind: str, body: bytes) -> dict[str, Any] | list[Any]:
        """What DagsHub answers to a call of its own."""
        if "/content/" in path and body:
            branch, _, place = unquote(path.partition("/content/")[2]).partition("/")
            for part in email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body).walk():
                if part.get_filename():
                    content = part.get_payload(decode=True)
                    assert isinstance(content, bytes)
                    self.files[f"{branch}/{place}/{part.get_filename()}"] = content
            return {}
        if "/content/" in path:
            return []
        if "/branches/" in path:
            return {"name": path.rpartition("/")[2], "commit": COMMIT}
        return USER if path.endswith("/user") else REPOSITORY


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        front, body = self.server, self._body()
        front.keys.add(self.headers.get("Authorization"))
        place, found, call = self.path.partition("/api/2.0/")
        if not found:
            answer = front.repository(urlsplit(self.path).path, self.headers.get("Content-Type", ""), body)
            self._send(200, json.dumps(answer).encode())
            return
        front.paths.add(place)
        there = http.client.HTTPConnection(urlsplit(front.behind).netloc)
        kind = {"Content-Type": self.headers["Content-Type"]} if "Content-Type" in self.headers else {}
        there.request(self.command, f"/api/2.0/{call}", body, kind)
        answered = there.getresponse()
        content = answered.read()
        if front.speaks_https and call.startswith("mlflow/"):
            content = content.replace(
                b'"mlflow-artifacts:/', f'"{front.behind}/api/2.0/mlflow-artifacts/artifacts/'.encode()
            )
        self._send(answered.status, content, answered.headers.get("Content-Type", "application/json"))
        there.close()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, code: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
