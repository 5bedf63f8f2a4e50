"""The file that holds the number of the server's process while it runs. Not here: what reads it."""

from __future__ import annotations

import contextlib
import os


class PidFile:
    """No file, until it is moved to a path."""

    def __init__(self) -> None:
        self._path: str | None = None

    def move(self, path: str | None) -> None:
        """Be at `path`, or nowhere for None. Raises OSError, and then it stays where it is."""
        if path == self._path:
            return
        if path is not None:
            with open(path, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        self.remove()
        self._path = path

    def remove(self) -> None:
        """Before the process ends."""
        if self._path is not None:
            with contextlib.suppress(OSError):  # its directory may be root's
                os.unlink(self._path)
