"""Doing what a server does, on its state, while none is running: as its user, and with it kept from starting.

Not here: what is done meanwhile (`carry`, `sendmail`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from mailserver import maillog
from mailserver.config.model import Config
from mailserver.server.privileges import PrivilegeError, account_of
from mailserver.server.state import State, StateError


class Occupied(Exception):
    """A server is running on this state, or another command is at it."""


@contextlib.contextmanager
def idle_state(config: Config) -> Iterator[State]:
    """The state directories, locked. Raises Occupied, StateError, OSError."""
    if not os.path.isdir(config.maildirs):
        raise StateError(f"{config.maildirs}: no such directory; the server makes it at its first start")
    with owner_of(config.maildirs):
        state = State(config.maildirs)
        state.prepare()
        fd = os.open(state.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd)
            yield state
        finally:
            os.close(fd)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Occupied from None


@contextlib.contextmanager
def logging_to(config: Config) -> Iterator[None]:
    """Events go into the server's log file, if it has one that we may write; never to standard error."""
    log = None
    if config.log_file is not None:
        with contextlib.suppress(OSError, PrivilegeError):
            log = maillog.open_log(config.log_file, account_of(config))
            log.start()
    try:
        yield
    finally:
        if log is not None:
            log.close()


@contextlib.contextmanager
def owner_of(path: str) -> Iterator[None]:
    """As root, be the owner of a directory for a while: what is made there is his to use. Raises OSError."""
    if os.geteuid() != 0:
        yield
        return
    status = os.stat(path)
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(status.st_gid)
    os.seteuid(status.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
