"""What a run had told before, for services that lose what a killed process had."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hftrain.plugin_api.spool import EVENTS, Event, read_events, valid_events
from hftrain.plugin_api.tracker import Run


def events_before(run: Run) -> Iterator[Event]:
    """Yield the rows, media and artifacts up to the step that the run goes on from, of the run's own record."""
    path = os.path.join(run.folder, EVENTS)
    if run.resumed_step is None or not os.path.isfile(path):
        return
    for event in valid_events(read_events(path)):
        if event.type in ("log", "media", "artifact", "checkpoint") and event.step <= run.resumed_step:
            yield event
