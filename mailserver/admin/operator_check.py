"""What is wrong with operators' files, all of it, for `check`. Looks, never changes.

Not here: the form of the files (`operator_files`), the rest of a configuration (`config.check`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailserver.admin.operator_files import OperatorFile, OperatorFiles
from mailserver.config.access import is_open_to_others
from mailserver.config.load import Problem
from mailserver.directory import passwords
from mailserver.directory.entries import Unavailable

_READABLE = "a password hash that every user of this machine can read; expected mode 600"


def problems(files: OperatorFiles) -> Iterator[Problem]:
    """Files that are nobody, or that others of this machine can read or share."""
    try:
        names = sorted(name for name in os.listdir(files.root) if not name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        yield Problem(files.root, "", f"cannot be read: {error.strerror}")
        return
    accounts: dict[int, str] = {}
    for name in names:
        path = os.path.join(files.root, name)
        try:
            file = files.get(name)
        except Unavailable as fault:
            yield Problem(fault.file, "", fault.reason)
            continue
        if file is None:
            yield Problem(path, "", "the file's name is no operator's; it is not used")
            continue
        if is_open_to_others(files.root) and is_open_to_others(path):
            yield Problem(
                path, "", "a password hash that every user of this machine can read; expected mode 600"
            )
        for key, problem in _inside(file, accounts, name):
            yield Problem(path, key, problem)


def _inside(file: OperatorFile, accounts: dict[int, str], name: str) -> Iterator[tuple[str, str]]:
    try:
        passwords.examine(file.password)
    except passwords.MalformedHash as error:
        yield "line 1", str(error)
    if file.account is not None and file.uid is None:
        yield "account", f"no account {file.account} on this machine"
    if file.uid is not None and file.enabled:
        other = accounts.setdefault(file.uid, name)
        if other != name:
            yield "account", f"{file.account} is operator {other}'s already, so neither is let in by it"
