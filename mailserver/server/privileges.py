"""From root to an ordinary user and group, for good.

Ports are bound and keys are read before. Not here: whether serving as root is allowed (configuration).
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import sys
from collections.abc import Callable

from mailserver.config.model import Config

_PR_SET_NO_NEW_PRIVS = 38


class PrivilegeError(Exception):
    """We could not become that user, or could become root again; the message is fit for an operator."""


def drop(user: str, group: str | None = None) -> None:
    """Become `user` and `group` (names or numbers; default: the user's group) without supplementary groups.

    Call it while there is one thread: no_new_privs holds for the calling thread and those it starts. Checks
    that there is no way back, and raises PrivilegeError if there is, or if anything failed: then stop.
    """
    uid, gid = account(user, group)
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)  # last: it takes away the right to the others
    except OSError as error:
        raise PrivilegeError(f"cannot become user {user!r}: {error.strerror}") from None
    _forbid_new_privileges()
    _check(uid, gid)


def account(user: str, group: str | None = None) -> tuple[int, int]:
    """The numbers of an ordinary user and group. Raises PrivilegeError."""
    uid, primary = _user(user)
    gid = _group(group) if group is not None else primary
    if gid is None:
        raise PrivilegeError(f"user {user!r} has no entry in the user database: name the group, too")
    if uid == 0 or gid == 0:
        raise PrivilegeError(f"expected an ordinary user and group, not {user!r} and {group or gid!r}")
    return uid, gid


def account_of(config: Config) -> tuple[int, int] | None:
    """Whom the server becomes; None where it stays who we are. Raises PrivilegeError."""
    if config.user is None or os.geteuid() != 0:
        return None
    return account(config.user, config.group)


def _user(name: str) -> tuple[int, int | None]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if not _is_number(name):
            raise PrivilegeError(f"unknown user {name!r}") from None
    else:
        return entry.pw_uid, entry.pw_gid
    try:
        return int(name), pwd.getpwuid(int(name)).pw_gid
    except KeyError:
        return int(name), None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if not _is_number(name):
            raise PrivilegeError(f"unknown group {name!r}") from None
        return int(name)


def _is_number(text: str) -> bool:
    """A user or group number; the highest one means "unchanged" to the system calls."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**32 - 1


def _forbid_new_privileges() -> None:
    """No program we start gains anything from a set-uid bit (prctl(2), Linux)."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise PrivilegeError("the kernel refused no_new_privs")


def _check(uid: int, gid: int) -> None:
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or os.getgroups():
        raise PrivilegeError("the user or group did not change as it should")
    ways_back: list[Callable[[], None]] = [
        lambda: os.setuid(0),
        lambda: os.setgid(0),
        lambda: os.setgroups([0]),
    ]
    for way_back in ways_back:
        try:
            way_back()
        except PermissionError:
            continue
        raise PrivilegeError("root's rights could be had again (is a capability kept?)")
