from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.testing import ContractError, check_hub_publisher
from tests.plugin_api.testing import hubs


@pytest.fixture
def pushed(tmp_path: Path) -> Path:
    """Where the folders are made that are pushed; the hub is another one."""
    hubs.FolderHub.root = tmp_path / "hub"
    return tmp_path / "pushed"


def test_a_publisher_that_keeps_to_the_contract_passes(pushed: Path) -> None:
    check_hub_publisher(hubs.FolderHub, pushed, name="model", bad_name="a/../b")


@pytest.mark.parametrize(
    ("publisher", "text"),
    [
        (str, r"must subclass hftrain\.plugin_api\.hub\.HubPublisher"),
        (hubs.TakesAnyName, r"check_names\(\) takes 'a/\.\./b'"),
        (hubs.AnotherRepo, r"ensure_repo\(\) returned Repo"),
        (hubs.Waits, r"push\(\) returned Commit.*, no Future"),
        (hubs.NoCommit, "A push came to None"),
        (hubs.OneVersion, "asked for as it was, these files are missing, changed or too many"),
        (hubs.ForgetsTheRest, "After a push over it, these files"),
        (hubs.NeverDeletes, "After a push that replaces, these files .*: deep/er/file.txt, model.safetensors"),
        (hubs.PushesAll, "leaves files out, these files .*: _x/b, checkpoint-5/a"),
        (hubs.SilentAboutFailures, "came to nothing, and said nothing"),
        (hubs.LogsTheToken, "It logged the token"),
        (hubs.RaisesTheToken, "text of a HubError holds the token"),
        (hubs.PlainHead, "metadata is no YAML|got into the card's metadata"),
        (hubs.WritesOver, "lost what a person wrote"),
    ],
)
def test_what_it_does_not_keep_to_is_named(pushed: Path, publisher: Any, text: str) -> None:
    with pytest.raises(ContractError, match=text):
        check_hub_publisher(publisher, pushed, name="model", bad_name="a/../b")
