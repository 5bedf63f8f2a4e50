"""Who may read what is secret, and whether the server may write where it must. Looks, never changes."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator

from mailserver.config.load import Problem
from mailserver.config.model import Config
from mailserver.directory.database import USERS


def is_open_to_others(path: str) -> bool:
    """Whether every user of the machine may read a file, or pass a directory, as far as its own mode says."""
    try:
        return bool(os.stat(path).st_mode & (stat.S_IROTH | stat.S_IXOTH))
    except OSError:
        return False


def readable_by_others(root: str) -> Iterator[Problem]:
    """Users' files, which hold password hashes, that every user of the machine can read. Raises OSError."""
    if not is_open_to_others(root):
        return
    for domain in sorted(os.listdir(root)):
        users = os.path.join(root, domain, USERS)
        if is_open_to_others(os.path.join(root, domain)) and is_open_to_others(users):
            with os.scandir(users) as entries:
                if any(is_open_to_others(entry.path) for entry in entries):
                    problem = "password hashes readable by every user of this machine; expected mode 700"
                    yield Problem(users, "", problem)


def unwritable(config: Config) -> Iterator[Problem]:
    """Directories that exist and that the server could not write to."""
    uid = _server(config)
    if uid is None:
        yield Problem(config.file, "user", f"no account {config.user} on this machine")
        return
    for path in (config.domains, config.maildirs):
        if os.path.isdir(path) and not _may_write(path, uid):
            yield Problem(path, "", f"the server, as user {_account(uid)}, may not write here")
    log = config.log_file
    if log is not None and os.path.isfile(log) and not _may_write(log, uid, os.W_OK):
        yield Problem(log, "", f"the server, as user {_account(uid)}, may not write this log")


def _server(config: Config) -> int | None:
    """The number of the user that serves: the configured one if we are root, else we; None: unknown."""
    if os.geteuid() != 0 or config.user is None:
        return os.geteuid()
    try:
        return int(config.user) if config.user.isdigit() else pwd.getpwnam(config.user).pw_uid
    except KeyError:
        return None


def _may_write(path: str, uid: int, wanted: int = os.W_OK | os.X_OK) -> bool:
    if uid == os.geteuid():
        return os.access(path, wanted)
    status = os.stat(path)
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IWUSR)
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
