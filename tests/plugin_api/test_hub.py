from __future__ import annotations

import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from hftrain.plugin_api.hub import Commit, HubError, HubPublisher, ModelCard, Push, Repo, RepoRequest, Token


class Recorded(HubPublisher):
    """Keeps what it is to push; waits until it may."""

    api = 1

    def __init__(self) -> None:
        self.pushed: list[Push] = []
        self.may_go_on = threading.Event()

    def check_names(self, request: RepoRequest) -> None:
        """Any name will do."""

    def ensure_repo(self, request: RepoRequest) -> Repo:
        return Repo(name=request.name, url="")

    def upload(self, push: Push) -> Commit:
        assert self.may_go_on.wait(30)
        if push.message == "refused":
            raise HubError("no", should_retry=False)
        self.pushed.append(push)
        return Commit(id=str(len(self.pushed)))

    def fetch(self, folder: str, *, path: str = "", revision: str | None = None) -> None:
        raise NotImplementedError

    def write_card(self, folder: str, card: ModelCard) -> str | None:
        return None


def test_a_push_returns_at_once_and_pushes_come_in_order() -> None:
    hub = Recorded()
    futures = [hub.push("folder", message, "branch", path="a", ignore=["b"]) for message in ("first", "second")]
    assert not any(future.done() for future in futures)
    hub.may_go_on.set()
    assert [future.result(30).id for future in futures] == ["1", "2"]
    assert hub.pushed[0] == Push(folder="folder", message="first", revision="branch", path="a", ignore=("b",))


def test_a_failure_is_in_the_future_and_the_next_push_goes_on() -> None:
    hub = Recorded()
    hub.may_go_on.set()
    with pytest.raises(HubError, match="no"):
        hub.push("folder", "refused").result(30)
    assert hub.push("folder", "next").result(30) == Commit(id="1")


def test_a_push_that_waits_can_be_cancelled() -> None:
    hub = Recorded()
    first, second = hub.push("folder", "first"), hub.push("folder", "second")
    assert second.cancel()
    hub.may_go_on.set()
    first.result(30)
    assert hub.close(timeout_s=30)
    assert [push.message for push in hub.pushed] == ["first"]


def test_closing_waits_no_longer_than_it_may() -> None:
    hub = Recorded()
    hub.push("folder", "hangs")
    assert not hub.close(timeout_s=0.01)
    hub.may_go_on.set()


def test_a_publisher_that_never_pushed_has_nothing_to_close() -> None:
    assert Recorded().close(timeout_s=0.0)


def test_nothing_prints_a_token() -> None:
    token = Token("hf_planted")
    texts = [str(token), repr(token), f"{token}", f"{token:>9}", repr(RepoRequest(name="n", token=token))]
    assert not any("planted" in text for text in texts)
    assert token.reveal() == "hf_planted"


def test_a_token_is_written_nowhere() -> None:
    token = Token("hf_planted")
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(token)
    with pytest.raises(TypeError):
        json.dumps({"token": token})
    assert copy.deepcopy(token) is token
    assert token == Token("hf_planted")


def test_a_class_that_leaves_out_a_method_cannot_be_made(tmp_path: Path) -> None:
    class Half(HubPublisher):
        def ensure_repo(self, request: RepoRequest) -> Repo:
            return Repo(name="", url="")

    made: Any = Half
    with pytest.raises(TypeError, match="upload"):
        made()


def test_a_push_after_close_is_made() -> None:
    hub = Recorded()
    hub.may_go_on.set()
    hub.push("folder", "before")
    assert hub.close(timeout_s=30)
    assert hub.push("folder", "after").result(30).id == "2"


def test_a_push_after_one_that_hangs_says_so() -> None:
    hub = Recorded()
    hub.push("folder", "hangs")
    assert not hub.close(timeout_s=0.01)
    with pytest.raises(HubError, match="still hangs"):
        hub.push("folder", "after").result(30)
    hub.may_go_on.set()
    assert hub.close(timeout_s=30)
