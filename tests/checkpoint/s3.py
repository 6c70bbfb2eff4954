"""A local S3: moto's server in a thread of this process."""

from __future__ import annotations

import functools
import uuid

import fsspec
from moto.server import ThreadedMotoServer


@functools.cache
def _server() -> object:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "test", "secret": "test"}
    fsspec.config.conf["s3"] = {**options, "default_block_size": 5 << 20}  # parts as small as S3 has them
    return server


def new_bucket() -> str:
    """Make an empty bucket on the local server, started when the first one is asked for."""
    _server()
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"
