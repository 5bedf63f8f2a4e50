"""Looks into the files of the spool: what is no regular file is not opened, and the envelope is found.

Plain synchronous Python; the caller decides on the thread. Not here: which files there are (`queue.spool`).
"""

from __future__ import annotations

import errno
import os
import stat

STEPS = (16 << 10, 256 << 10, 16 << 20)
"""Octets in which an envelope is looked for; 1,000 recipients with long replies need 5 MiB. A buffer of the
last size each time took a fifth of all the queue did for a message."""


def open_regular(path: str) -> int:
    """A descriptor of a regular file; of what somebody else put there, such as a FIFO, none, at once."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
    except OSError:
        os.close(fd)
        raise
    return fd


def ends_at(fd: int, size: int, flags: int) -> bool:
    """Whether content of `size` octets stands before an envelope (`entry.tail`). Raises OSError."""
    return octets_at(fd, 2, size, flags) == b"\n{"


def octets_at(fd: int, count: int, offset: int, flags: int) -> bytes:
    """Octets of a file, fewer at its end, read with `flags` of preadv(2). Raises OSError."""
    buffer = bytearray(count)
    got = os.preadv(fd, [buffer], offset, flags)
    if got < count and flags:
        raise BlockingIOError(errno.EAGAIN, "Perhaps there is more")
    return bytes(buffer[:got])


def is_there(path: str) -> bool:
    """Not `os.path.exists`: a disk that cannot say takes no message away. Raises OSError."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def envelope_of(path: str) -> bytes:
    """The envelope in a file: its last line, or all of it where no content is before it. Raises OSError."""
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        for most in STEPS:
            end = os.pread(fd, most, max(0, size - most))
            if len(end) == size and end.startswith(b"{"):
                return end  # of a hand it may have several lines
            start = end.rstrip().rfind(b"\n") + 1  # a hand may have left empty lines at the end
            if start:
                break
        return end[start:]
    finally:
        os.close(fd)
