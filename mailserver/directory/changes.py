"""Changes to the directory database's files: whole or not at all, one at a time in a domain.

Who changes something holds an exclusive flock on the directory concerned, so several commands and a server
that renews a hash do not undo each other; the lock ends with its process. Look-ups take no lock: every
step is one rename, link or unlink. Not here: which files (`database`), their forms (`users`, ...).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from mailserver.directory import cache
from mailserver.directory.domains import FILE
from mailserver.directory.entries import Exists, Missing
from mailserver.durable import files


@contextmanager
def locked(directory: str, missing: str) -> Iterator[None]:
    """Alone with `directory`. Raises Missing with the text `missing` where it is gone; OSError."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Missing(missing) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _is_at(fd, directory):  # removed, or removed and made anew, while we waited
            raise Missing(missing)
        yield
    finally:
        os.close(fd)


def add_domain(root: str, spellings: tuple[str, ...], content: bytes | None) -> None:
    """Make the domain's directory, named by the first of its spellings. Raises Exists, OSError.

    It is made aside and renamed, so that nobody meets the domain without its settings.
    """
    files.make_directory(root)
    with locked(root, f"no directory {root}"):
        if any(os.path.lexists(f"{root}/{spelling}") for spelling in spellings):
            raise Exists(f"{spellings[0]} exists already")
        fresh = tempfile.mkdtemp(prefix=".new-", dir=root)
        try:
            files.inherit_owner(fresh, root)
            for name in ("users", "aliases"):
                files.make_directory(f"{fresh}/{name}")
            if content is not None:
                files.create(f"{fresh}/{FILE}", content)
            files.rename(fresh, f"{root}/{spellings[0]}")
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def remove_tree(directory: str) -> None:
    """Remove a directory in one step, then its content; of a symbolic link only the link. Raises OSError."""
    if os.path.islink(directory):
        return files.unlink(directory)
    aside = tempfile.mkdtemp(prefix=".removed-", dir=os.path.dirname(directory))
    files.rename(directory, aside)  # onto an empty directory
    shutil.rmtree(aside)


def create(path: str, content: bytes, exists: str) -> None:
    """A new file, in a directory that is made if need be. Raises Exists with that text, OSError."""
    files.make_directory(os.path.dirname(path))
    try:
        files.create(path, content)
    except FileExistsError as error:
        raise Exists(exists) from error


def content(path: str, octets: int) -> bytes:
    """A file's content as it is now. Raises Malformed for no regular file or a larger one, OSError."""
    return cache.read(path, octets)


def rewrite(path: str, content: bytes) -> None:
    """Replace a file's content; a symbolic link stays and its target changes. Raises OSError."""
    target = os.path.realpath(path)
    files.replace(target, content, stat.S_IMODE(os.stat(target).st_mode) & 0o777)


def remove(path: str) -> None:
    """Remove a name for good. Raises OSError."""
    files.unlink(path)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
