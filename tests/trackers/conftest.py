"""What the tests with the trackers' own libraries share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trackers import servers


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server; one for all, since it takes many seconds to start."""
    with servers.mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as address:
        yield address
