"""Keeps in a run's record what is warned of while it is reported: by hftrain's logger, and by Python's warnings."""

from __future__ import annotations

import logging
import os
import warnings
from collections import deque
from typing import TextIO

from hftrain.plugin_api.spool import Spool
from hftrain.plugin_api.values import masked

_LOGGER = "hftrain"
_PYTHON = "py.warnings"
"""The name under which `logging.captureWarnings` has them."""
_MAX_TEXTS = 1000


class Warned(logging.Handler):
    """Appends a ``warning`` event to the spool for each new text, from the moment it is made until `close`.

    Trackers are not told of them: what a tracker itself warns of would come back to it.

    A warning may come from anywhere: from the garbage collector in the middle of an append, whose lock it would wait
    for, or from a worker of a data loader, which has a copy of this. So it is put aside when the spool is busy and
    written at the next `flush`, and does nothing in another process.

    Args:
        spool: of the run.
        secrets: texts that must not be written.
    """

    def __init__(self, spool: Spool, *, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(logging.WARNING)
        self.step = 0
        """That the next warning belongs to."""
        self._spool = spool
        self._secrets = secrets
        self._seen: set[tuple[str, str]] = set()
        self._waiting: deque[tuple[str, str]] = deque()
        self._process = os.getpid()
        self._show_before = warnings.showwarning
        self._show = self._showwarning  # one object, to be recognised by
        warnings.showwarning = self._show
        logging.getLogger(_LOGGER).addHandler(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record. Without the lock of other handlers: nothing here waits for anything."""
        self._take(record.name, record.getMessage())
        return True

    def flush(self) -> None:
        """Write what was put aside."""
        while self._waiting and not self._spool.is_busy:
            try:
                logger, text = self._waiting.popleft()
            except IndexError:  # another thread wrote it just now
                return
            self._spool.append("warning", step=self.step, data={"text": text, "logger": logger})

    def close(self) -> None:
        """Take nothing more."""
        logging.getLogger(_LOGGER).removeHandler(self)
        if warnings.showwarning is self._show:
            warnings.showwarning = self._show_before
        self.flush()
        self._process = 0  # whoever kept `showwarning` meanwhile, as catch_warnings does, may still call it
        super().close()

    def _showwarning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self._take(_PYTHON, f"{category.__name__}: {message}")
        self._show_before(message, category, filename, lineno, file, line)

    def _take(self, logger: str, text: str) -> None:
        found = (logger, masked(text, secrets=self._secrets))
        if os.getpid() != self._process or found in self._seen or len(self._seen) >= _MAX_TEXTS:
            return
        self._seen.add(found)
        self._waiting.append(found)
        self.flush()
