"""A run as its own record tells it: series by name, and everything that was said beside them. No torch.

Rows that are no events, and values that are no numbers, are passed over: the record may be torn, or a stranger's.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hftrain.plugin_api.runs import find_run
from hftrain.plugin_api.spool import EVENTS, TIMING, Event, read_events
from hftrain.plugin_api.values import finite_or_not

PARTS = ("data", "compute", "log", "eval", "save")
_MAX_STEP = 2**53


@dataclass(frozen=True)
class Series:
    """One metric: its values, the steps they belong to, and when they were told.

    Attributes:
        steps: optimizer steps done, in the order told, which rises but for evaluations told late.
        values: nan and infinite ones as they are.
        times: unix seconds.
    """

    steps: Sequence[int]
    values: Sequence[float]
    times: Sequence[float]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something that happened at a step: a checkpoint, a warning, something to look at, something kept.

    Attributes:
        name: of the checkpoint, the thing or the logger.
        text: the path, or what the warning says.
        kind: of media: "image", "histogram" or "text".
    """

    step: int
    time: float
    name: str
    text: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """A run.

    Attributes:
        folder: of the record.
        run_id: the folder's name.
        name: what people call it; None if nobody said.
        status: "finished", "failed", "interrupted" or "pruned"; None while no end is told.
        error: what stopped a run that failed.
        started: unix seconds; None without a beginning.
        updated: unix seconds of the last event.
        step: the highest step told.
        max_steps: that the run will have made at its end; 0 if that is not known.
        epoch: of the last event that has one.
        series: by the name in the rows (``loss``, ``eval_accuracy``), in the order of their first telling.
        timing: seconds between two rows by what they were spent on (`PARTS`), and ``steps``, made in them.
        arguments: of the training; secrets are masked.
        model: its configuration.
        environment: versions, device and the like.
        trial: name of the trial of a search.
        params: what the search chose.
        group: what runs of one search share.
        resumes: the steps that the run went on from.
    """

    folder: str
    run_id: str
    name: str | None = None
    status: str | None = None
    error: str | None = None
    started: float | None = None
    updated: float | None = None
    step: int = 0
    max_steps: int = 0
    epoch: float | None = None
    series: Mapping[str, Series] = field(default_factory=dict)
    timing: Mapping[str, Series] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    output_dir: str | None = None
    trial: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    resumes: tuple[int, ...] = ()
    checkpoints: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()
    media: tuple[Note, ...] = ()
    artifacts: tuple[Note, ...] = ()


def read_run(path: str) -> RunData:
    """Return a run.

    Args:
        path: an output_dir, of which the newest run is meant, or the run's folder.

    Raises:
        ConfigurationError: there is none.
    """
    folder = find_run(path)
    return RunReader(folder).feed(read_events(os.path.join(folder, EVENTS))).data()


def steps_per_second(run: RunData) -> Series:
    """Return the optimizer steps made in each second of training between two rows.

    Where the run has a timing, evaluating and saving are no part of the seconds; else they are those between the rows.
    """
    if "steps" in run.timing:
        counts = run.timing["steps"]
        spent = [run.timing[part].values for part in ("data", "compute", "log")]
        seconds = [sum(parts) for parts in zip(*spent, strict=True)]
        pairs = list(zip(counts.steps, counts.values, seconds, counts.times, strict=True))
    else:
        loss = run.series.get("loss", Series((), (), ()))
        steps, times = loss.steps, loss.times
        pairs = [
            (steps[i], steps[i] - steps[i - 1], times[i] - times[i - 1], times[i]) for i in range(1, len(loss.steps))
        ]
    rates = [(step, number / spent, time) for step, number, spent, time in pairs if spent > 0 and number > 0]
    return Series([row[0] for row in rates], [row[1] for row in rates], [row[2] for row in rates])


class RunReader:
    """Puts a run together from its events; may be fed again when there are more.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._start: Mapping[str, Any] = {}
        self._finish: Mapping[str, Any] = {}
        self._started: float | None = None
        self._updated: float | None = None
        self._step = 0
        self._epoch: float | None = None
        self._series: dict[str, _Column] = {}
        self._timing: dict[str, _Column] = {}
        self._notes: dict[str, list[Note]] = {"checkpoint": [], "warning": [], "media": [], "artifact": []}
        self._resumes: list[int] = []

    def feed(self, events: Iterable[Event]) -> RunReader:
        """Take the events, in order; return itself."""
        for event in events:
            if 0 <= event.step <= _MAX_STEP:
                self._take(event)
        return self

    def data(self) -> RunData:
        """Return the run as far as it is told."""
        start, finish = self._start, self._finish
        return RunData(
            folder=self._folder,
            run_id=os.path.basename(os.path.abspath(self._folder)),
            name=_text_or_none(start.get("name")),
            status=_text_or_none(finish.get("status")),
            error=_text_or_none(finish.get("error")),
            started=self._started,
            updated=self._updated,
            step=self._step,
            max_steps=_count(start.get("max_steps")),
            epoch=self._epoch,
            series={name: column.series() for name, column in self._series.items() if column.steps},
            timing={name: column.series() for name, column in self._timing.items() if column.steps},
            arguments=_mapping(start.get("arguments")),
            model=_mapping(start.get("model")),
            environment=_mapping(start.get("environment")),
            output_dir=_text_or_none(start.get("output_dir")),
            trial=_text_or_none(start.get("trial")),
            params=_mapping(start.get("params")),
            group=_text_or_none(start.get("group")),
            resumes=tuple(self._resumes),
            checkpoints=tuple(self._notes["checkpoint"]),
            warnings=tuple(self._notes["warning"]),
            media=tuple(self._notes["media"]),
            artifacts=tuple(self._notes["artifact"]),
        )

    def _take(self, event: Event) -> None:
        time = _number(event.time) or 0.0
        self._updated = time
        if event.type == "resume":
            self._forget_above(event.step)
        self._step = max(self._step, event.step)
        epoch = _number(event.epoch)
        self._epoch = self._epoch if epoch is None else epoch
        _TAKES[event.type](self, event, time)

    def _take_row(self, event: Event, time: float) -> None:
        step, series = event.step, self._series
        for name, value in event.data.items():
            number = value if type(value) is float else _number(value)
            if number is None:
                if name == TIMING:
                    self._take_timing(value, step, time)
                continue
            column = series.get(name)
            if column is None:
                column = series[name] = _Column()
            column.add(step, number, time)

    def _take_timing(self, value: Any, step: int, time: float) -> None:
        """Keep the seconds, all parts of a row or none of them: they are added up, and shown one upon the other."""
        parts = {name: _number(value.get(name)) for name in (*PARTS, "steps")} if isinstance(value, dict) else {}
        numbers = {name: number for name, number in parts.items() if number is not None and 0 <= number < math.inf}
        if len(numbers) != len(PARTS) + 1:
            return
        for name, number in numbers.items():
            self._timing.setdefault(name, _Column()).add(step, number, time)

    def _take_note(self, event: Event, time: float) -> None:
        data = event.data
        is_warning = event.type == "warning"
        name, text = data.get("logger" if is_warning else "name"), data.get("text" if is_warning else "path")
        self._notes[event.type].append(
            Note(step=event.step, time=time, name=_text(name), text=_text(text), kind=_text(data.get("kind")))
        )

    def _take_start(self, event: Event, time: float) -> None:
        self._start = event.data
        self._started = time if self._started is None else self._started

    def _take_finish(self, event: Event, time: float) -> None:
        self._finish = event.data

    def _take_resume(self, event: Event, time: float) -> None:
        self._resumes.append(event.step)

    def _forget_above(self, step: int) -> None:
        """Drop what a resume made void, as `hftrain.plugin_api.spool.valid_events` says it."""
        for column in (*self._series.values(), *self._timing.values()):
            column.forget_above(step)
        for kind, notes in self._notes.items():
            if kind != "warning":
                self._notes[kind] = [note for note in notes if note.step <= step]
        self._finish, self._step = {}, min(self._step, step)


class _Column:
    """A series as it grows; arrays, since a run may have a million rows."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.values = array("d")
        self.times = array("d")

    def add(self, step: int, value: float, time: float) -> None:
        self.steps.append(step)
        self.values.append(value)
        self.times.append(time)

    def forget_above(self, step: int) -> None:
        kept = [place for place, found in enumerate(self.steps) if found <= step]
        if len(kept) == len(self.steps):
            return
        self.steps = array("q", (self.steps[place] for place in kept))
        self.values = array("d", (self.values[place] for place in kept))
        self.times = array("d", (self.times[place] for place in kept))

    def series(self) -> Series:
        return Series(self.steps[:], self.values[:], self.times[:])


_TAKES: Mapping[str, Callable[[RunReader, Event, float], None]] = {
    "start": RunReader._take_start,
    "log": RunReader._take_row,
    "media": RunReader._take_note,
    "artifact": RunReader._take_note,
    "checkpoint": RunReader._take_note,
    "warning": RunReader._take_note,
    "resume": RunReader._take_resume,
    "finish": RunReader._take_finish,
}


def _number(value: Any) -> float | None:
    number = finite_or_not(value)
    try:
        return None if number is None else float(number)
    except OverflowError:  # an integer that no float can hold
        return None


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_STEP else 0


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
