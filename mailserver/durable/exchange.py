"""A file that people edit too is replaced only if it still is what was read; nobody's edit is lost.

The new file and the old one change places in one step (renameat2(2), RENAME_EXCHANGE), and then it is looked
at what came out. Where the system cannot exchange, the file is read once more right before it is replaced.
Not here: what the files mean, what becomes of an exchange that a crash has cut short (`config.history`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

from mailserver.durable.files import regular, sync_directory

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class Changed(Exception):
    """The file is not any more what was read; it was left as it is.

    `overtaken` is what a person wrote who at once wrote again, over what is now there.
    """

    def __init__(self, overtaken: bytes | None = None) -> None:
        super().__init__()
        self.overtaken = overtaken


def replace_known(path: str, temporary: str, known: bytes, data: bytes) -> None:
    """Replace the content `known` of `path` by `data`, with its owner and mode; durable when it returns.

    `temporary` is a name in the same directory; after a crash it may be left, with `data` or with what came
    out of the exchange. Raises Changed when somebody else has written meanwhile, whose file stays; OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        _write_alike(path, temporary, data)
        _swap(path, temporary, known, data)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        sync_directory(os.path.dirname(path))


def exchange(one: str, other: str) -> bool:
    """Let two files change places in one step; False where the system cannot. Raises OSError."""
    if _renameat2 is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if _renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), one)


def _write_alike(path: str, temporary: str, data: bytes) -> None:
    """Synced content in a new file that belongs to whom the old one belongs to."""
    like = os.stat(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        made = os.fstat(fd)
        if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
            os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, like.st_mode & 0o7777)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _swap(path: str, temporary: str, known: bytes, data: bytes) -> None:
    if not exchange(temporary, path):
        if _content(path) != known:
            raise Changed
        os.rename(temporary, path)
        return
    theirs = _content(temporary)
    if theirs == known:
        return
    exchange(temporary, path)
    if _content(temporary) == data:
        raise Changed
    exchange(temporary, path)  # written once more before it was back: the later one counts
    raise Changed(overtaken=theirs)


def _content(path: str) -> bytes:
    with open(path, "rb", opener=regular) as file:
        return file.read()
