"""Publishers that keep to the contract, and those that each break one thing of it."""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

from hftrain.plugin_api.hub import Commit, HubError, HubPublisher, ModelCard, Push, Repo, RepoRequest

logger = logging.getLogger(__name__)
BEGIN, END = "<!-- hftrain: begin -->", "<!-- hftrain: end -->"


class FolderHub(HubPublisher):
    """A folder of versions; a pointer that is written last says which one counts."""

    api = 1
    root: ClassVar[Path]

    def check_names(self, request: RepoRequest) -> None:
        if not re.fullmatch(r"[\w.-]+", request.name):
            raise ValueError(f"hub_model_id={request.name!r}: letters, digits, '_', '.' and '-' only.")

    def ensure_repo(self, request: RepoRequest) -> Repo:
        self.folder = self.root / request.name
        self.revision = request.revision or "main"
        (self.folder / "versions").mkdir(parents=True, exist_ok=True)
        return Repo(name=request.name, url=f"file://{self.folder}")

    def upload(self, push: Push) -> Commit:
        if not os.path.isdir(push.folder):
            raise HubError(f"{push.folder} is not there.", should_retry=False)
        versions = self.folder / "versions"
        version = versions / str(len(list(versions.iterdir())) + 1)
        old = self.version_of(push.revision)
        shutil.copytree(old, version) if old else version.mkdir()
        target = version / push.path
        if push.replaces and target.exists():
            shutil.rmtree(target)
        self.copy(push, target)
        pointer = self.folder / (push.revision or self.revision)
        pointer.with_suffix(".new").write_text(version.name)
        pointer.with_suffix(".new").rename(pointer)
        return Commit(id=version.name)

    def copy(self, push: Push, target: Path) -> None:
        def left_out(folder: str, names: list[str]) -> set[str]:
            return {name for name in names for pattern in push.ignore if fnmatch.fnmatch(name, pattern)}

        shutil.copytree(push.folder, target, ignore=left_out, dirs_exist_ok=True)

    def version_of(self, revision: str | None) -> Path | None:
        if revision and (self.folder / "versions" / revision).is_dir():
            return self.folder / "versions" / revision
        pointer = self.folder / (revision or self.revision)
        return self.folder / "versions" / pointer.read_text() if pointer.is_file() else None

    def fetch(self, folder: str, *, path: str = "", revision: str | None = None) -> None:
        version = self.version_of(revision)
        if version is None or not (version / path).is_dir():
            raise HubError(f"There is no {path!r} in {revision or self.revision}.", should_retry=False)
        shutil.copytree(version / path, folder, dirs_exist_ok=True)

    def write_card(self, folder: str, card: ModelCard) -> str | None:
        path = Path(folder) / "README.md"
        by_hand = path.read_text().partition(END)[2] if path.exists() else ""
        name = card.name.replace("<", "&lt;").replace("\n", " ")
        path.write_text(f"{self.head(card)}{BEGIN}\n# {name}\n{END}{by_hand}")
        return str(path)

    def head(self, card: ModelCard) -> str:
        import yaml

        return f"---\n{yaml.safe_dump(dict(card.metadata))}---\n"


class TakesAnyName(FolderHub):
    def check_names(self, request: RepoRequest) -> None:
        """Any name will do."""


class AnotherRepo(FolderHub):
    def ensure_repo(self, request: RepoRequest) -> Repo:
        super().ensure_repo(request)
        return Repo(name=request.name, url=str(id(self)))


class Waits(FolderHub):
    def push(self, folder: str, message: str, revision: str | None = None, **kwargs: Any) -> Any:
        return super().push(folder, message, revision, **kwargs).result()


class NoCommit(FolderHub):
    def upload(self, push: Push) -> Any:
        super().upload(push)


class OneVersion(FolderHub):
    def version_of(self, revision: str | None) -> Path | None:
        return super().version_of(None)


class ForgetsTheRest(FolderHub):
    def copy(self, push: Push, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        super().copy(push, target)


class NeverDeletes(FolderHub):
    def upload(self, push: Push) -> Commit:
        from dataclasses import replace

        return super().upload(replace(push, replaces=False))


class PushesAll(FolderHub):
    def copy(self, push: Push, target: Path) -> None:
        shutil.copytree(push.folder, target, dirs_exist_ok=True)


class SilentAboutFailures(FolderHub):
    def upload(self, push: Push) -> Commit:
        return super().upload(push) if os.path.isdir(push.folder) else Commit(id="none")


class LogsTheToken(FolderHub):
    def ensure_repo(self, request: RepoRequest) -> Repo:
        assert request.token is not None
        logger.warning("Authorization: Bearer %s", request.token.reveal())
        return super().ensure_repo(request)


class RaisesTheToken(FolderHub):
    def ensure_repo(self, request: RepoRequest) -> Repo:
        assert request.token is not None
        raise HubError(f"401 for {request.token.reveal()}", should_retry=False)


class PlainHead(FolderHub):
    def head(self, card: ModelCard) -> str:
        return f"---\nlicense: mit\ntags:\n- {card.name}\n---\n"


class WritesOver(FolderHub):
    def write_card(self, folder: str, card: ModelCard) -> str | None:
        Path(folder, "README.md").unlink(missing_ok=True)
        return super().write_card(folder, card)
