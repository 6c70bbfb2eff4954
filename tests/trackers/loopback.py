"""A server on this machine that a test starts and talks to."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Loopback(ThreadingHTTPServer):
    """Listens on a free port, in threads that end with the process.

    Args:
        handler: what answers.
        certificate: file of a certificate and its key, to speak https.
    """

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def listen(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
