"""Locks on a run's files: two processes that tell a tracker of one run would tell it the same twice."""

from __future__ import annotations

import contextlib
import errno
import sys

_HELD = (errno.EACCES, errno.EAGAIN)


def try_lock(file: int, *, is_shared: bool = False) -> bool:
    """Lock an open file until it is closed; return False if another opening of it has it locked. Never waits.

    Where the system or the filesystem knows no locks, nothing is locked, and the answer is True.
    """
    if sys.platform == "win32":
        return True
    import fcntl  # Unix only

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def unlock(file: int) -> None:
    """Give the lock back, also for processes that were forked while it was held: they have the file open too."""
    if sys.platform == "win32":
        return
    import fcntl  # Unix only

    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
