"""What clients of trackers put in the place of Python's own, and how it gets back there."""

from __future__ import annotations

import sys
from typing import Any

_NAMES = ("excepthook", "stdout", "stderr")


class Hooks:
    """Remembers what stands in `sys`; made before trackers start.

    W&B's, Comet's and Neptune's clients leave their own ``sys.excepthook``, DVCLive's leaves wrapped streams.
    """

    def __init__(self) -> None:
        self._before: dict[str, Any] = {name: getattr(sys, name) for name in _NAMES}
        self._theirs: dict[str, Any] = {}

    def note(self) -> None:
        """Take what stands there now, and did not before, for the trackers' own. Called when they have started."""
        now = {name: getattr(sys, name) for name in _NAMES}
        self._theirs = {name: value for name, value in now.items() if value is not self._before[name]}

    def put_back(self) -> None:
        """Put back what stood there, unless something newer than the trackers' own stands there now."""
        for name, value in self._theirs.items():
            if getattr(sys, name) is value:
                setattr(sys, name, self._before[name])
        self._theirs = {}
