"""What becomes of the mail of removed users: put aside in one step, found again, or deleted for good.

It lies in `.removed/<user>.<time>` beside the domain's mailboxes: the same file system, and a leading dot
is no user. So nobody who gets the name later meets it. Not here: who is removed (`accounts`).
"""

from __future__ import annotations

import os
import re
import time

from mailserver.durable import files

ASIDE = ".removed"


def put_aside(mailbox: str) -> str:
    """Move a mailbox aside, durably; returns where it is now. Raises OSError."""
    domain, name = os.path.split(mailbox)
    aside = os.path.join(domain, ASIDE)
    files.make_directory(aside)
    stem = os.path.join(aside, f"{name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    target = stem
    count = 1
    while os.path.lexists(target):
        count += 1
        target = f"{stem}.{count}"
    files.rename(mailbox, target)
    return target


def set_aside(mailbox: str) -> list[str]:
    """What lies aside of removed users of the mailbox's name, oldest first. Raises OSError."""
    domain, name = os.path.split(mailbox)
    named = re.compile(re.escape(name) + r"\.\d{8}T\d{6}Z(\.\d+)?")
    try:
        with os.scandir(os.path.join(domain, ASIDE)) as entries:
            return sorted(entry.path for entry in entries if named.fullmatch(entry.name))
    except FileNotFoundError:
        return []


def delete(mailbox: str) -> None:
    """Remove a directory and all in it for good, following no link. Raises OSError."""
    for _, directories, names, fd in os.fwalk(mailbox, topdown=False):
        for name in names:
            os.unlink(name, dir_fd=fd)
        for name in directories:
            _remove_directory(name, fd)
    os.rmdir(mailbox)
    files.sync_directory(os.path.dirname(mailbox))


def _remove_directory(name: str, fd: int) -> None:
    try:
        os.rmdir(name, dir_fd=fd)
    except NotADirectoryError:  # a link to a directory
        os.unlink(name, dir_fd=fd)
