"""The file that holds the number of the server's process while it runs. Not here: what reads it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator

from mailserver.durable import files

_NUMBER = re.compile(rb"[0-9]{1,20}\s*")
_MODE = 0o644  # before the umask


class PidFile:
    """No file, until it is moved to a path."""

    def __init__(self) -> None:
        self._path: str | None = None

    def move(self, path: str | None) -> None:
        """Be at `path`, or nowhere for None. Raises OSError, and then it stays where it is.

        A file that is there is replaced only if it holds one number: a server that was killed left it.
        """
        if path == self._path:
            return
        if path is not None:
            _write(path)
        self.remove()
        self._path = path

    def remove(self) -> None:
        """Before the process ends. What is not our number any more, stays."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # its directory may be root's
            if _holds_ours(self._path):
                os.unlink(self._path)


def _write(path: str) -> None:
    ours = b"%d\n" % os.getpid()
    if not os.path.lexists(path):
        return files.create(path, ours, _MODE)
    with _opened(path, os.O_RDWR) as fd:
        former = os.read(fd, 100)
        if not _NUMBER.fullmatch(former):
            raise OSError(errno.EEXIST, "the file there holds something else than a process number", path)
        os.pwrite(fd, ours.ljust(len(former), b"\n"), 0)  # a number at every moment, also for the next start
        os.ftruncate(fd, len(ours))


def _holds_ours(path: str) -> bool:
    with _opened(path, os.O_RDONLY) as fd:
        return os.read(fd, 100) == b"%d\n" % os.getpid()


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """A regular file; no link is followed and no pipe waited for. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "expected a regular file", path)
        yield fd
    finally:
        os.close(fd)
