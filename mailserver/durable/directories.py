"""The directories that one pass of a commit gives names in, each opened once and synced once.

Not here: what gets a name there, and when (`durable.commit`).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mailserver.durable.files import sync_directory

OPEN = 64  # at a time


class Directories:
    """Descriptors of directories by path, for one thread."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._synced: dict[str, OSError | None] = {}

    def of(self, path: str, opening: Callable[[], int]) -> int:
        """The directory's descriptor, at first from `opening`; good until the next call. Raises OSError."""
        fd = self._open.get(path)
        if fd is None:
            if len(self._open) >= OPEN:
                _close(self._open.pop(next(iter(self._open))))
            fd = self._open[path] = opening()
        return fd

    def sync(self, path: str) -> None:
        """Make the names in a directory durable. Raises OSError, for each who asks.

        The kernel tells of an error once: a second fsync would succeed, and prove nothing.
        """
        if path not in self._synced:
            self._synced[path] = self._sync(path)
        if (failed := self._synced[path]) is not None:
            raise failed

    def _sync(self, path: str) -> OSError | None:
        try:
            if path in self._open:
                os.fsync(self._open[path])
            else:
                sync_directory(path)
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        for fd in self._open.values():
            _close(fd)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # nothing was written through it: it has nothing to tell
