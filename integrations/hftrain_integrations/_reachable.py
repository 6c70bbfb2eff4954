"""Whether a server answers at all, asked before a client that would try for minutes."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_TIMEOUT_S = 5.0


def check_reachable(url: str, hint: str) -> None:
    """Open a connection to the server and close it; behind a proxy nothing is asked.

    Raises:
        ConnectionError: it cannot be reached; with ``hint``, which says what to set.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise ConnectionError(f"{url} cannot be reached ({error}); {hint}") from error


@contextmanager
def begins(hint: str) -> Iterator[None]:
    """Have what a client raises as it begins say what to check, too: most say no more than what the server answered.

    Raises:
        ConnectionError: something was raised; with ``hint``, which says what to check.
    """
    try:
        yield
    except Exception as error:
        raise ConnectionError(
            f"the server did not let the run begin ({type(error).__name__}: {error}); check {hint}"
        ) from error
