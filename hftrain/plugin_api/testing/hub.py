"""The check of a hub's publisher."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import yaml

from hftrain.plugin_api.hub import Commit, HubPublisher, ModelCard, Repo, RepoRequest, Token
from hftrain.plugin_api.registry import Kind
from hftrain.plugin_api.testing.common import (
    PLANTED,
    ContractError,
    check_class,
    check_module,
    check_no_secret,
    leaving_the_process_alone,
    planted_secret,
    without_network,
)

_FIRST = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4, "deep/er/file.txt": b"1"}
_SECOND = {"config.json": b'{"a": 1}', "new.txt": b"2"}
_NASTY = 'a "name": with\n---\nlicense: stolen\n<script>alert(1)</script> | `x` # y'


def check_hub_publisher(
    publisher: type[HubPublisher],
    folder: str | os.PathLike[str],
    *,
    name: str,
    bad_name: str,
    token: Token | None = None,
    timeout_s: float = 60.0,
) -> None:
    """Push to a hub, or a stand-in for one, in the ways that a run may, and fetch what is there then.

    Args:
        publisher: the class that the entry point names; what it needs of its environment is set.
        folder: an empty one, for the folders that are pushed.
        name: of a repository that does not exist yet.
        bad_name: one that the hub cannot have.
        token: what the hub takes; None plants one, which must be found nowhere.
        timeout_s: how long one push may take.

    Raises:
        ContractError: says what it does not keep to.
    """
    check_class(Kind.HUB, publisher)
    request = RepoRequest(name=name, private=True, token=token or Token(PLANTED))
    folder = os.fspath(folder)
    with planted_secret(), leaving_the_process_alone(), _no_secret_said(request):
        _check_names(publisher(), request, bad_name)
        kit = _Kit(publisher, request, folder, timeout_s)
        for check in _CHECKS:
            check(kit)
        if not kit.hub.close(timeout_s=timeout_s):
            raise ContractError("close() did not end, with nothing left to push.")
    check_no_secret(folder)
    check_module(publisher)


class _Kit:
    """A publisher, and folders to push."""

    def __init__(self, publisher: type[HubPublisher], request: RepoRequest, folder: str, timeout_s: float) -> None:
        self.publisher, self.request, self.folder, self.timeout_s = publisher, request, folder, timeout_s
        self.hub = publisher()
        self.repo = self.hub.ensure_repo(request)
        self._count = 0

    def written(self, files: Mapping[str, bytes]) -> str:
        """Return a new folder with these files."""
        folder = self.new()
        for name, content in files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        return folder

    def new(self) -> str:
        """Return a name for a new folder."""
        self._count += 1
        return os.path.join(self.folder, f"folder-{self._count}")

    def pushed(self, files: Mapping[str, bytes], **kwargs: Any) -> Commit:
        """Push these files and return the commit."""
        future = self.hub.push(self.written(files), "a message", **kwargs)
        if not isinstance(future, Future):
            raise ContractError(f"push() returned {future!r}, no Future.")
        commit = future.result(self.timeout_s)
        if not isinstance(commit, Commit) or not commit.id:
            raise ContractError(f"A push came to {commit!r}: a Commit with an id.")
        return commit

    def fetched(self, **kwargs: Any) -> dict[str, bytes]:
        """Return what is in the repository, without what the hub keeps of its own (a card, names with a dot)."""
        folder = self.new()
        self.hub.fetch(folder, **kwargs)
        return {name: content for name, content in _files(folder) if not name.startswith((".", "README.md"))}

    def must_hold(self, expected: Mapping[str, bytes], after: str, **kwargs: Any) -> None:
        """Raise unless the repository has these files and no others."""
        found = self.fetched(**kwargs)
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        if wrong:
            raise ContractError(f"After {after}, these files are missing, changed or too many: {', '.join(wrong)}.")


def _check_names(hub: HubPublisher, request: RepoRequest, bad_name: str) -> None:
    with without_network("check_names()"):
        hub.check_names(request)
        try:
            hub.check_names(replace(request, name=bad_name))
        except ValueError:
            return
    raise ContractError(f"check_names() takes {bad_name!r}, which the hub cannot have.")


def _check_repo(kit: _Kit) -> None:
    again = kit.publisher().ensure_repo(replace(kit.request, private=None))
    if not isinstance(kit.repo, Repo) or again != kit.repo:
        raise ContractError(f"ensure_repo() returned {kit.repo!r}, and for the one that is there {again!r}.")


def _check_pushes(kit: _Kit) -> None:
    first = kit.pushed(_FIRST)
    kit.must_hold(_FIRST, "the first push")
    kit.pushed(_SECOND)
    kit.must_hold({**_FIRST, **_SECOND}, "a push over it")
    kit.must_hold(_FIRST, "a push over it, asked for as it was", revision=first.id)
    kit.pushed(_SECOND)
    kit.must_hold({**_FIRST, **_SECOND}, "the same push again")
    kit.pushed(_SECOND, replaces=True)
    kit.must_hold(_SECOND, "a push that replaces")


def _check_paths(kit: _Kit) -> None:
    kit.pushed(_SECOND, replaces=True)
    kit.pushed(_FIRST, path="last-checkpoint")
    kit.must_hold(_FIRST, "a push to a path, of that path,", path="last-checkpoint")
    kit.pushed({"config.json": b"3"}, path="last-checkpoint", replaces=True)
    kit.must_hold({**_SECOND, "last-checkpoint/config.json": b"3"}, "a push that replaces a path")
    kit.pushed({**_SECOND, "checkpoint-5/a": b"1", "_x/b": b"1"}, replaces=True, ignore=["checkpoint-*", "_*"])
    kit.must_hold(_SECOND, "a push that leaves files out")


def _check_revisions(kit: _Kit) -> None:
    kit.pushed(_SECOND, replaces=True)
    kit.hub.ensure_repo(replace(kit.request, revision="other"))
    kit.pushed(_FIRST, revision="other", replaces=True)
    kit.must_hold(_FIRST, "a push to a revision", revision="other")
    kit.hub = kit.publisher()
    kit.hub.ensure_repo(kit.request)
    kit.must_hold(_SECOND, "a push to another revision")


def _check_failures(kit: _Kit) -> None:
    failed = kit.hub.push(kit.new(), "of a folder that is gone")
    if failed.exception(kit.timeout_s) is None:
        raise ContractError("A push of a folder that is not there came to nothing, and said nothing.")
    kit.pushed(_SECOND, replaces=True)
    kit.must_hold(_SECOND, "a push after one that failed")
    try:
        kit.hub.fetch(kit.new(), path="no-such-path")
    except Exception:  # the user reads it, whatever it is
        return
    raise ContractError("fetch() of what is not there said nothing.")


def _check_card(kit: _Kit) -> None:
    folder = kit.written(_SECOND)
    card = ModelCard(
        name=_NASTY,
        metadata={"license": "mit", "tags": [_NASTY], "dataset": _NASTY},
        arguments={"learning_rate": 0.1, "run_name": _NASTY},
        rows=[{"loss": 1.0, "step": 1}, {"eval_loss": "nan", "step": 1, _NASTY: 1}],
        metrics={"eval_loss": 0.5, _NASTY: 1.0},
        versions={"hftrain": "1"},
        task={"class": "m:Task", "width": _NASTY},
    )
    path = kit.hub.write_card(folder, card)
    if path is None:
        return
    if "<script>" in _check_metadata(_read(path)):
        raise ContractError("A card holds <script> as it came in a name: escape it.")
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n## Written by hand\n\nwords of a person\n")
    kit.hub.write_card(folder, replace(card, metrics={"eval_loss": 0.25}))
    if "words of a person" not in _read(path):
        raise ContractError("A card that was written again lost what a person wrote into it.")
    _check_metadata(_read(path))


def _check_metadata(text: str) -> str:
    """Check what stands between the first two lines of dashes, if anything does; return the rest."""
    if not text.startswith("---\n"):
        return text
    head, _, rest = text[4:].partition("\n---\n")
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise ContractError(f"The card's metadata is no YAML: {error}.") from error
    if not isinstance(found, dict) or found.get("license") != "mit" or "license: stolen" in rest.splitlines():
        raise ContractError("A name with a line of its own got into the card's metadata, or the license is lost.")
    return rest


_CHECKS: tuple[Callable[[_Kit], None], ...] = (
    _check_repo,
    _check_pushes,
    _check_paths,
    _check_revisions,
    _check_failures,
    _check_card,
)


@contextmanager
def _no_secret_said(request: RepoRequest) -> Iterator[None]:
    """Check that no log record and no exception has the token in its text."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    secret = request.token.reveal() if request.token else PLANTED
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        if secret in f"{error!r}{error.__cause__!r}{error.__context__!r}":
            raise ContractError(f"The text of a {type(error).__name__} holds the token.") from None
        raise ContractError(f"It raised {error!r}.") from error
    finally:
        logging.getLogger().removeHandler(handler)
    if any(secret in text or PLANTED in text for text in said):
        raise ContractError("It logged the token.")


def _files(folder: str) -> Iterator[tuple[str, bytes]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                yield os.path.relpath(path, folder).replace(os.sep, "/"), file.read()


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
