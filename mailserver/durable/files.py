"""Small files and directories, changed so that a crash leaves the old state or the new one.

Order everywhere: content synced, then the name, then the directory that holds the name.
Not here: message content, which is committed in groups (`durable.commit`).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat

_counter = itertools.count()


def regular(path: str, flags: int) -> int:
    """For `open(..., opener=)`: what is no file, such as a pipe, keeps nobody waiting. Raises OSError."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, os.strerror(number) if number == errno.EISDIR else "Not a regular file", path)


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or leads to one; a link that leads nowhere, or in circles, does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Write `data` to `path` as a whole: a reader, or a crash, sees the old content or the new.

    The temporary name begins with a dot, which no key of the directory database does. Raises OSError.
    """
    path = os.fspath(path)
    parent = os.path.dirname(path) or "."
    temporary = os.path.join(parent, f".tmp-{os.getpid()}-{next(_counter)}")
    try:
        write_new(temporary, data, mode)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(parent)


def create(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Like `replace`, but for a name that is still free: of several at once exactly one wins.

    Raises FileExistsError for the others, and OSError.
    """
    path = os.fspath(path)
    parent = os.path.dirname(path) or "."
    temporary = os.path.join(parent, f".tmp-{os.getpid()}-{next(_counter)}")
    try:
        write_new(temporary, data, mode)
        os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    sync_directory(parent)


def write_new(path: str, data: bytes, mode: int = 0o600) -> None:
    """Create `path`, which must not exist, with synced content; its name is not synced. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        inherit_owner(fd, os.path.dirname(path) or ".")
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: str | os.PathLike[str], mode: int = 0o700, *, sync: bool = True) -> None:
    """`mkdir -p`; every new level is synced into its parent, the last one if `sync`. Raises OSError."""
    path = os.fspath(path)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    except FileNotFoundError:
        make_directory(os.path.dirname(path), mode)
        return make_directory(path, mode, sync=sync)
    parent = os.path.dirname(path) or "."
    inherit_owner(path, parent)
    if sync:
        sync_directory(parent)


def inherit_owner(new: int | str, parent: str) -> None:
    """As root, give `new` to the owner of its directory: root's commands must not lock the server out."""
    if os.geteuid() == 0:
        status = os.stat(parent)
        os.chown(new, status.st_uid, status.st_gid)


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename, and sync the directories concerned. Raises OSError."""
    os.rename(source, target)
    parents = {os.path.dirname(os.fspath(target)) or ".", os.path.dirname(os.fspath(source)) or "."}
    for parent in parents:
        sync_directory(parent)


def unlink(path: str | os.PathLike[str]) -> None:
    """Remove a name for good. Raises OSError."""
    os.unlink(path)
    sync_directory(os.path.dirname(os.fspath(path)) or ".")
