"""Directories and small files of a mailbox, opened so that no symbolic link leads out of it.

The mailbox itself may be a link (its owner moved it); below it every step is opened with O_NOFOLLOW and
names are used relative to the open directory, so a link put there between two calls changes nothing.
Not here: what the files mean.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress

from mailserver.durable import files

SUBDIRECTORIES = ("tmp", "new", "cur")
TRASH = ".Trash"
_MARK = "maildirfolder"  # tells delivery agents that a directory is a folder and no mailbox
MAX_LINES = 1_000_000
MAX_LINE = 1024

_BUFFER = 8192  # said here, or the file would be asked whether it is a terminal

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hang the reader


@contextmanager
def opened(root: str, *names: str) -> Iterator[int]:
    """A descriptor of the directory `root/name/...`, for `dir_fd`. Raises OSError, for links too."""
    fd = os.open(os.path.join(root, *names[:1]), _DIRECTORY if names else _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for name in names[1:]:
            outer, fd = fd, os.open(name, _DIRECTORY, dir_fd=fd)
            os.close(outer)
        yield fd
    finally:
        os.close(fd)


def open_directory(path: str) -> int:
    """A descriptor of the directory `path`, whose last step is no link. Raises OSError."""
    return os.open(path, _DIRECTORY)


class Directories:
    """Directories of a mailbox, each opened once while many of their files are worked on."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: dict[tuple[str, ...], int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def opened(self, *names: str) -> int:
        """A descriptor of `root/name/...`, as `opened` gives it. Raises OSError."""
        if (directory := self._open.get(names)) is None:
            directory = self._open[names] = self._stack.enter_context(opened(self._root, *names))
        return directory


def messages_in(directory: int) -> list[str]:
    """Names in an open directory that may be messages: no dot first, and by its type no link or directory."""
    with os.scandir(directory) as entries:
        return [name for e in entries if (name := e.name)[0] != "." and e.is_file(follow_symlinks=False)]


def folders(root: str) -> list[str]:
    """The Maildir++ folders of a mailbox, `.Trash` among them, in no order. Raises OSError."""
    with os.scandir(root) as entries:
        return [e.name for e in entries if e.name.startswith(".") and e.is_dir(follow_symlinks=False)]


def make_folder(root: str, folder: str) -> None:
    """What is missing of a Maildir++ folder, its empty file `maildirfolder` too, durably. Raises OSError."""
    path = os.path.join(root, folder)
    files.make_directory(path)
    with opened(root, folder) as directory:  # not a link that leads elsewhere
        if {*SUBDIRECTORIES, _MARK} <= set(os.listdir(directory)):
            return
        for name in SUBDIRECTORIES:
            files.make_directory(os.path.join(path, name), sync=False)
        files.sync_directory(path)
        with suppress(FileExistsError):  # last: where it is, all the others are durable
            files.write_new(os.path.join(path, _MARK), b"")


def open_regular(name: str, directory: int | None = None) -> int:
    """A descriptor of a regular file. Raises OSError, for anything else too."""
    fd = os.open(name, _FILE, dir_fd=directory)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file")


def read_once(name: str, directory: int, most: int) -> bytes:
    """At most so many octets of a file, in one step; if that is all, the caller tells. Raises OSError."""
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)


def read_lines(path: str) -> Generator[bytes, None, None]:
    """Lines of a regular file without their ends, at most MAX_LINES of MAX_LINE octets. Raises OSError."""
    with os.fdopen(open_regular(path), "rb", _BUFFER) as file:
        for _ in range(MAX_LINES):
            if not (line := file.readline(MAX_LINE)):
                return
            yield line.removesuffix(b"\n")
