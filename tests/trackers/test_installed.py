"""The environment of the trackers' tests is what it is said to be."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

from hftrain.plugin_api.registry import Kind, Registry, registry
from hftrain.plugin_api.requirements import lacks
from hftrain.plugin_api.tracker import Tracker

pytestmark = pytest.mark.trackers


def test_transformers_is_not_in_it() -> None:
    assert importlib.util.find_spec("transformers") is None


def test_torch_is_a_link() -> None:
    assert Path(torch.__file__).parent.resolve() != Path(torch.__file__).parent


def test_every_shipped_plugin_is_ready() -> None:
    command = [str(Path(sys.executable).with_name("hftrain")), "plugins", "--check", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["plugins"]
    assert {row["name"]: row["detail"] for row in rows if row["status"] != "ready"} == {}
    assert {row["name"] for row in rows} == {one.name for one in Registry().all()}


def test_whatever_a_package_requires_is_there_in_a_version_that_does() -> None:
    required = {(found.name, text) for found in distributions() for text in found.requires or ()}
    assert {name: missing for name, text in sorted(required) if (missing := lacks([text]))} == {}


def test_every_client_is_imported_before_the_time_limit_of_its_start_begins() -> None:
    classes = [registry().load(Kind.TRACKER, one.name) for one in Registry().all(Kind.TRACKER)]
    assert [found.__name__ for found in classes if found.requires and found.load is Tracker.load] == []
