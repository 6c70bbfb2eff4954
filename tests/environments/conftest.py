from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments.environment import Environment, build_hftrain, make_environment


@pytest.fixture(scope="session")
def hftrain_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own wheel, built once."""
    return build_hftrain(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory: pytest.TempPathFactory, hftrain_wheel: Path) -> Environment:
    """hftrain and its core requirements, for tests that install nothing more."""
    return make_environment(tmp_path_factory.mktemp("bare") / "venv", hftrain_wheel)


@pytest.fixture
def environment(tmp_path: Path, hftrain_wheel: Path) -> Environment:
    """The same, new for one test, which may install into it."""
    return make_environment(tmp_path / "venv", hftrain_wheel)
