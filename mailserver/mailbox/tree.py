"""Directories and small files of a mailbox, opened so that no symbolic link leads out of it.

The mailbox itself may be a link (its owner moved it); below it every step is opened with O_NOFOLLOW and
names are used relative to the open directory, so a link put there between two calls changes nothing.
Not here: what the files mean.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

SUBDIRECTORIES = ("tmp", "new", "cur")
TRASH = ".Trash"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hang the reader


def label(mailbox: str) -> str:
    """A mailbox in the log: the last two parts of its path, which are domain and user."""
    return "/".join(mailbox.rstrip("/").split("/")[-2:])


@contextmanager
def opened(root: str, first: str, *deeper: str) -> Iterator[int]:
    """A descriptor of the directory `root/first/...`, for `dir_fd`. Raises OSError, for links too."""
    fd = os.open(os.path.join(root, first), _DIRECTORY)
    try:
        for name in deeper:
            outer, fd = fd, os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(outer)
        yield fd
    finally:
        os.close(fd)


def messages_in(directory: int) -> list[str]:
    """Names in an open directory that may be messages: no dot first, and by its type no link or directory."""
    with os.scandir(directory) as entries:
        return [e.name for e in entries if not e.name.startswith(".") and e.is_file(follow_symlinks=False)]


def folders(root: str) -> list[str]:
    """The Maildir++ folders of a mailbox, `.Trash` among them, in no order. Raises OSError."""
    with os.scandir(root) as entries:
        return [e.name for e in entries if e.name.startswith(".") and e.is_dir(follow_symlinks=False)]


def open_regular(name: str, directory: int | None = None) -> int:
    """A descriptor of a regular file. Raises OSError, for anything else too."""
    fd = os.open(name, _FILE, dir_fd=directory)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file")


def read_file(path: str, limit: int) -> bytes | None:
    """The first `limit` octets of a regular file, or None if there is no such name. Raises OSError."""
    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(limit)
