"""The template of a tracker: what each would repeat stands here, and an author writes what is the service's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

from hftrain.plugin_api.spool import TIMING, Event
from hftrain.plugin_api.values import finite_or_not

logger = logging.getLogger(__name__)

Status = Literal["finished", "failed", "interrupted", "pruned"]
MediaKind = Literal["image", "histogram", "text"]
GRADIENTS, PARAMETERS = "gradients", "parameters"
"""What a tracker may ask to watch; the values stand before the slash in ``gradients/<parameter>``."""
HISTOGRAMS = "histograms"
"""The kind of a media event that holds one histogram for each parameter, for the trackers that watch."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a tracker is told when it starts. Secrets are masked already.

    Attributes:
        run_id: names the run across resumes; letters, digits and ``-``.
        name: what people call it; None if nobody said.
        folder: of the run's own files, on a local disk.
        output_dir: of the run; a path or a URL.
        logging_dir: where event files go that a viewer reads.
        arguments: of the training, plain values.
        model: its configuration, plain values, nested as it is; empty if it has none.
        environment: what it runs on, plain values: versions, platform, device, number of processes, git commit.
        max_steps: optimizer steps that the run will have made at its end; 0 if that is not known.
        remote_id: what `start` returned when this run was first tracked; None the first time.
        resumed_step: the step that the run goes on from; None if it begins. What was logged above it is void.
        trial: name of the trial of a search; None outside one.
        trial_params: what the search chose.
        group: what runs of one search share.
    """

    run_id: str
    name: str | None = None
    folder: str = ""
    output_dir: str = ""
    logging_dir: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int = 0
    remote_id: str | None = None
    resumed_step: int | None = None
    trial: str | None = None
    trial_params: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None

    def folder_of_id(self, *others: str) -> str | None:
        """Return ``remote_id`` for a tracker whose ids are folders; None if it is none that this run may write into.

        A checkpoint of somebody else names any folder: only what lies in output_dir, in logging_dir or in one of
        ``others``, where the tracker would begin by itself, is taken.
        """
        places = [place for place in (self.output_dir, self.logging_dir, *others) if place and "://" not in place]
        found = self.remote_id
        return found if found is not None and any(is_inside(found, place) for place in places) else None


@dataclass(frozen=True, kw_only=True)
class Media:
    """Something to look at.

    Attributes:
        path: of a file: PNG of an image, the text itself, or an ``.npz`` with ``counts`` and ``edges`` of a histogram.
    """

    name: str
    kind: MediaKind
    path: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder, or a file, to keep with the run.

    Attributes:
        is_checkpoint: whether it is a committed checkpoint of the run.
        is_final_model: whether it is the model as training left it, for trackers that take it.
        metadata: numbers known at its step.
    """

    name: str
    path: str
    step: int
    is_checkpoint: bool = False
    is_final_model: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Tracker:
    """Reports a run to one service. A plugin of the group ``hftrain.trackers`` is a subclass, made without arguments.

    An author overrides `start` and `log`, and what else the service can do. All of it is called on rank 0 only, in
    order, in one thread that is the tracker's own: blocking there costs the run nothing. What is raised is a warning,
    and the call is made again later; raise in `start` for a setting that is wrong, saying what to set.

    Nothing third-party may be imported where the class's module is: import it in `load` or `start`.

    Attributes:
        api: the version of this interface that it was written for.
        requires: what must be installed, in the form of PEP 508.
        extra: of its distribution, which installs that; "" if there is none.
        renames_metrics: ``loss`` is told as ``train/loss``, ``eval_loss`` as ``eval/loss``; False keeps names.
        takes_non_finite: whether nan and infinite numbers can be told; else they are left out.
        hint: what a user can set if the service does not answer: ``"WANDB_BASE_URL or WANDB_MODE=offline"``.

    Example:
        ::

            class PrintTracker(Tracker):
                api = 1
                requires = ()
                extra = ""

                def log(self, metrics, step):
                    print(step, dict(metrics))
    """

    api: ClassVar[int] = 0
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    renames_metrics: ClassVar[bool] = True
    takes_non_finite: ClassVar[bool] = True
    hint: ClassVar[str] = ""

    _warned: set[str]

    def unavailable_because(self) -> str | None:
        """Say why the tracker could not start without asking anything (no key, no server); None if it can.

        Asked before `start` where nobody named this tracker, as with ``report_to="all"``. No network.
        """
        return None

    def watches(self) -> Collection[str]:
        """Say what `log_histograms` wants: "gradients", "parameters", both or nothing.

        Asked of an instance that does not start, so of the user's settings alone.
        """
        return ()

    def takes_final_model(self) -> bool:
        """Whether `log_artifact` wants the model as training left it, which is saved for that. Asked as `watches`."""
        return False

    def load(self) -> None:
        """Import what `start` needs, and make local files ready; ask no service. The time limit of `start` begins then.

        Overriding it is worth it where that takes seconds.
        """

    def start(self, run: Run) -> str | None:
        """Begin, or go on with, the run, and return the service's id for it, which ``run.remote_id`` is next time.

        Raises:
            Exception: anything, with what to set in its text; the run does not begin then.
        """
        return None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell numbers of one step; names are as ``renames_metrics`` says."""

    def log_media(self, media: Media) -> None:
        """Tell something to look at."""

    def log_histograms(self, kind: str, histograms: Mapping[str, tuple[Any, Any]], step: int) -> None:
        """Tell how gradients or parameters, as ``kind`` says, are distributed: counts and edges by parameter."""

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep a folder or a file with the run. It may be gone when this is called late."""

    def finish(self, status: Status, error: str | None) -> None:
        """End the run; ``error`` says what stopped one that failed."""

    # ---- the template -------------------------------------------------------------------------------

    def takes(self) -> frozenset[str]:
        """Return the types of events that a method of its own is called for; of others it need not hear."""
        own = type(self)
        if own.deliver is not Tracker.deliver:
            return frozenset(_CALLS)
        return frozenset(
            name
            for name, methods in _METHODS.items()
            if any(getattr(own, method) is not getattr(Tracker, method) for method in methods)
        )

    def deliver(self, event: Event, *, folder: str = "") -> None:
        """Hand an event on to the method it is for; ``folder`` is the run's, where its media and artifacts lie."""
        call = _CALLS.get(event.type)
        if event.type in ("media", "artifact", "checkpoint"):
            path = event.data["path"]
            path = path if "://" in path else os.path.join(folder, path)
            event = replace(event, data={**event.data, "path": path})
            if folder and not _is_of_run(event, path, folder):  # a record of somebody else may name any file
                self._warn_once("outside", f"{path} is not told, since it lies outside of the run, and maybe others")
                return
        if call is not None:
            call(self, event)

    def _log(self, event: Event) -> None:
        metrics = {}
        for name, value in event.data.items():
            if name == TIMING and isinstance(value, Mapping):
                continue
            number = finite_or_not(value)
            if number is None:
                self._warn_once(name, f"{name}={value!r} is no number, and is not told")
            elif self.takes_non_finite or number - number == 0:
                metrics[metric_name(name) if self.renames_metrics else name] = number
        if metrics:
            self.log(metrics, event.step)

    def _log_media(self, event: Event) -> None:
        data = event.data
        if data["kind"] == HISTOGRAMS:
            if data["name"] in self.watches():
                self.log_histograms(data["name"], _histograms(data["path"]), event.step)
            return
        self.log_media(Media(name=data["name"], kind=data["kind"], path=data["path"], step=event.step))

    def _log_artifact(self, event: Event) -> None:
        data = event.data
        if "://" not in data["path"] and not os.path.exists(data["path"]):
            if type(self).log_artifact is not Tracker.log_artifact:
                self._warn_once("gone", f"{data['path']} was removed before it was told, and maybe others after it")
            return
        is_final_model = bool(data.get("is_final_model"))
        if is_final_model and not self.takes_final_model():
            return
        self.log_artifact(
            Artifact(
                name=data["name"],
                path=data["path"],
                step=event.step,
                is_checkpoint=event.type == "checkpoint",
                is_final_model=is_final_model,
                metadata=data.get("metadata", {}),
            )
        )

    def _finish(self, event: Event) -> None:
        self.finish(cast(Status, event.data["status"]), event.data.get("error"))

    def _warn_once(self, key: str, text: str) -> None:
        warned = self.__dict__.setdefault("_warned", set())
        if key not in warned:
            warned.add(key)
            logger.warning("%s: %s.", type(self).__name__, text)


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it, links followed."""
    real = os.path.realpath(folder)
    return os.path.commonpath([real, os.path.realpath(path)]) == real


def _is_of_run(event: Event, path: str, folder: str) -> bool:
    if event.type != "checkpoint":
        return is_inside(path, folder)
    is_remote = "://" in path and not path.startswith("file:")
    output_dir = os.path.dirname(os.path.dirname(os.path.abspath(folder)))  # of <output_dir>/runs/<run_id>
    return is_remote or is_inside(path, output_dir)


def metric_name(name: str) -> str:
    """Return a metric's name with its stage before a slash: ``train/loss``, ``eval/loss``, ``test/loss``."""
    for stage in ("eval", "test"):
        if name.startswith(f"{stage}_"):
            return f"{stage}/{name[len(stage) + 1 :]}"
    return f"train/{name}"


def _histograms(path: str) -> dict[str, tuple[Any, Any]]:
    import numpy as np

    with np.load(path) as found:
        names, counts, edges = found["names"].tolist(), found["counts"], found["edges"]
    return {name: (counts[place], edges[place]) for place, name in enumerate(names)}


_CALLS: dict[str, Callable[[Tracker, Event], None]] = {
    "log": Tracker._log,
    "media": Tracker._log_media,
    "artifact": Tracker._log_artifact,
    "checkpoint": Tracker._log_artifact,
    "finish": Tracker._finish,
}
_METHODS: dict[str, tuple[str, ...]] = {
    "log": ("log",),
    "media": ("log_media", "log_histograms"),
    "artifact": ("log_artifact",),
    "checkpoint": ("log_artifact",),
    "finish": ("finish",),
}
