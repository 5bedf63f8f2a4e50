"""The exclusive lock of a POP3 session on its mailbox (RFC 1939 §4).

`flock` on a file that is never removed: the kernel gives the lock back however the holder ends, and two
sessions of one process exclude each other like two processes. Delivery and other mail programs do not
take it. Not here: waiting; a mailbox in use is the client's to try again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from mailserver.durable.files import inherit_owner

FILE = "pop3.lock"


class InUse(Exception):
    """Another session holds the mailbox."""


class Lock:
    """One session's hold on the mailbox at `mailbox`."""

    def __init__(self, mailbox: str) -> None:
        self._mailbox = mailbox
        self._fd = -1

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def acquire(self) -> None:
        """Take the lock, once. Raises InUse at once if another session has it, or OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"{self._mailbox}/{FILE}", flags, 0o600)
        try:
            inherit_owner(fd, self._mailbox)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise InUse from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # closed even where close(2) fails, and the lock with it
                os.close(fd)
