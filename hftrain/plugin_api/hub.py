"""What a hub is: a place that folders are pushed to, in versions, and read from again.

When something is pushed, what is pushed, how often a failure is tried again and what survives the process is the
trainer's. A publisher does one push at a time and says what went wrong with it.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, final

from hftrain.plugin_api.values import MASK


@final
class Token:
    """A secret that nothing prints: only `reveal` gives it away. It cannot be pickled, and JSON refuses it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret, to be handed to the client that needs it and kept nowhere."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Token:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Token:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A token is not written anywhere: send it to another process in its environment.")


class HubError(Exception):
    """A hub did not do what it was asked; the text says why, and what to do, without any token.

    Args:
        text: what the user reads.
        should_retry: whether the same call may succeed later (an outage, a cut connection, a rate limit), with nothing
            changed by the user. False: a token that was revoked, a repository that is gone.
        wait_s: how long the hub asked to wait before that.
    """

    def __init__(self, text: str, *, should_retry: bool, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.should_retry = should_retry
        self.wait_s = wait_s


@dataclass(frozen=True, kw_only=True)
class RepoRequest:
    """The repository that a run pushes to, as the user asked for it.

    Attributes:
        name: of it, without the publisher's own; a bare one is put into the account's namespace.
        private: whether others may not see a new one; None leaves that to the account. One that exists stays as it is.
        token: None: the one that the user logged in with, if the hub has such a thing.
        revision: a branch that pushes go to; None: the hub's default.
    """

    name: str
    private: bool | None = None
    token: Token | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Repo:
    """A repository that is there.

    Attributes:
        name: in full, with its namespace.
        url: where people look at it.
    """

    name: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Push:
    """One version of a repository's content.

    Attributes:
        folder: whose files are pushed. Nothing changes or deletes them before the push has ended.
        message: what people read of it.
        revision: None: that of the request.
        path: the folder in the repository that they go to, with ``/``; "" is its root.
        ignore: file name patterns, of paths below ``folder``, that stay here; a folder's name covers what is in it.
        replaces: whether files under ``path`` that are not in ``folder`` (or ignored there) are deleted.
    """

    folder: str
    message: str
    revision: str | None = None
    path: str = ""
    ignore: tuple[str, ...] = ()
    replaces: bool = False


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A push that the hub has taken, whole.

    Attributes:
        id: names it at the hub; `HubPublisher.fetch` takes it as a revision.
        url: where people look at it; None if they cannot.
    """

    id: str
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a model, for people and for the hub's search. Texts are as they came: the publisher escapes.

    Attributes:
        name: of the model.
        metadata: of `create_model_card`: language, license, tags, finetuned_from, tasks, dataset_tags, dataset,
            dataset_args; those that are known.
        arguments: of the training that differ from their defaults, plain values without secrets.
        rows: of the run's log, in order.
        metrics: of the last evaluation.
        versions: package -> version.
        task: the class and the constructor's arguments of a TaskModule; empty for other models.
        picture: the file of the loss curve, below the card's folder; None if there is none.
    """

    name: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    picture: str | None = None


class HubPublisher(ABC):
    """Pushes folders to one hub. A plugin of the group ``hftrain.hub`` is a subclass, made without arguments.

    An author writes `check_names`, `ensure_repo`, `upload`, `fetch` and `write_card`; on rank 0 only. Texts of what
    they raise, log and write hold no token. Nothing third-party may be imported where the class's module is.

    Attributes:
        api: the version of this interface that it was written for.
        requires: what must be installed, in the form of PEP 508.
        extra: of its distribution, which installs that; "" if there is none.
    """

    api: ClassVar[int] = 0
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    _worker: _Worker | None = None

    @abstractmethod
    def check_names(self, request: RepoRequest) -> None:
        """Refuse what the hub would refuse, before the run starts. No network.

        Raises:
            ValueError: the name or the revision cannot be one; says what may stand in it.
        """

    @abstractmethod
    def ensure_repo(self, request: RepoRequest) -> Repo:
        """Make the repository and the revision, or use them as they are, and push there from now on.

        Raises:
            HubError: it cannot be had, or written to.
        """

    @abstractmethod
    def upload(self, push: Push) -> Commit:
        """Push once, and return when the hub has all of it: readers see the content of before, or all of the new one.

        Called after `ensure_repo`, in one thread of the publisher's own, one at a time and in order. A push is made
        again after an error, also by a process that knows nothing of the first: doing it twice must be harmless.

        Raises:
            HubError: it was not taken. Anything else that is raised counts as one to be tried again.
        """

    @abstractmethod
    def fetch(self, folder: str, *, path: str = "", revision: str | None = None) -> None:
        """Write the files under a path of the repository into a folder.

        Args:
            folder: made if it is not there.
            path: in the repository; what is below it is written without it.
            revision: a branch, or a commit's id; None: the one of the request.

        Raises:
            HubError: there is no such thing.
        """

    @abstractmethod
    def write_card(self, folder: str, card: ModelCard) -> str | None:
        """Write the card that the hub shows into a folder that will be pushed, and return its path; None for no card.

        A card that is there is brought up to date: what a person wrote into it, outside of what was generated, stays.
        """

    # ---- the template -----------------------------------------------------------------------------------------------

    def push(
        self,
        folder: str,
        message: str,
        revision: str | None = None,
        *,
        path: str = "",
        ignore: Sequence[str] = (),
        replaces: bool = False,
    ) -> Future[Commit]:
        """Begin to push a folder, after the pushes before it, and return at once; `Push` explains the arguments.

        The future holds the commit, or what `upload` raised. Cancelling it keeps a push from beginning.
        """
        what = Push(
            folder=folder, message=message, revision=revision, path=path, ignore=tuple(ignore), replaces=replaces
        )
        if self._worker is None:
            self._worker = _Worker(self.upload)
        return self._worker.submit(what)

    def close(self, *, timeout_s: float) -> bool:
        """Wait for the pushes, at most so long; return whether all have ended. One that hangs delays no exit.

        Another push may follow, but for after one that hung: that one's future holds an error.
        """
        if self._worker is None:
            return True
        have_ended = self._worker.close(timeout_s=timeout_s)
        if have_ended:
            self._worker = None
        return have_ended


class _Worker:
    """One daemon thread: an executor's threads are waited for when Python exits, however long a push hangs."""

    def __init__(self, upload: Callable[[Push], Commit]) -> None:
        self._upload = upload
        self._waiting: queue.SimpleQueue[tuple[Push, Future[Commit]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="hftrain-push", daemon=True)
        self._thread.start()

    def submit(self, push: Push) -> Future[Commit]:
        future: Future[Commit] = Future()
        if self._is_closed:
            future.set_exception(
                HubError("The push before it still hangs, so this one is not made.", should_retry=True)
            )
        else:
            self._waiting.put((push, future))
        return future

    def close(self, *, timeout_s: float) -> bool:
        if not self._is_closed:
            self._is_closed = True
            self._waiting.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            push, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._upload(push))
            except BaseException as error:  # a client's sys.exit() included: the future tells of it
                future.set_exception(error)
