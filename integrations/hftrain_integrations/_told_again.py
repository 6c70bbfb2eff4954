"""Tells again what a killed process had told, for formats that lose it with the process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator

from hftrain.plugin_api.spool import EVENTS, Event, read_events, valid_events
from hftrain.plugin_api.tracker import Run, Tracker


class TellsAgain(Tracker):
    """A tracker that a subclass can have told everything up to the step that the run goes on from, before the rest."""

    _killed: Run | None = None
    _lost: deque[Event] | None = None

    def _tell_again(self, run: Run) -> None:
        """Have what the run's own record holds told with the next call, if the process before this one was killed."""
        self._killed = run

    def deliver(self, event: Event, *, folder: str = "") -> None:
        """Hand on what was lost, and then the event."""
        if self._lost is None:
            self._lost = deque() if self._killed is None else deque(_lost_of(self._killed))
        while self._lost:
            super().deliver(self._lost[0], folder=folder)
            self._lost.popleft()  # only now: one that is refused is tried again
        super().deliver(event, folder=folder)


def events_before(run: Run) -> Iterator[Event]:
    """Yield the rows, media and artifacts of the run's own record up to the step that the run goes on from."""
    path = os.path.join(run.folder, EVENTS)
    if run.resumed_step is None or not os.path.isfile(path):
        return
    for event in valid_events(read_events(path)):
        if event.type in ("log", "media", "artifact", "checkpoint") and event.step <= run.resumed_step:
            yield event


def _lost_of(run: Run) -> list[Event]:
    """Return nothing if the process before this one ended the run, as its record tells."""
    path = os.path.join(run.folder, EVENTS)
    if run.resumed_step is None or not os.path.isfile(path):
        return []
    types = [event.type for event in read_events(path) if event.type in ("resume", "start", "finish")]
    until = len(types) - types[::-1].index("resume") - 1 if "resume" in types else 0
    return list(events_before(run)) if types[:until][-1:] == ["start"] else []
