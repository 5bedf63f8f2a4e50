"""The state directory: made, locked and cleaned before a server uses it.

    <maildirs>/<domain>/<user>     mailboxes
    <maildirs>/.queue/tmp          content being written, told to nobody yet
    <maildirs>/.run                lock, sockets, what the sweeper remembers

A leading dot can be no domain. Not here: what mailboxes hold (`mailbox`), whose process it is
(`privileges`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from mailserver import maillog
from mailserver.durable.commit import recover
from mailserver.durable.files import make_directory


class StateError(Exception):
    """The state directory cannot be used; the text is one line for the operator."""


class State:
    """The directories of one running server. Raises StateError when another server runs on them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.staging = os.path.join(root, ".queue", "tmp")
        self.run = os.path.join(root, ".run")
        self.lock_file = os.path.join(self.run, "lock")
        self.sweep_file = os.path.join(self.run, "sweep")
        self._lock = -1

    def prepare(self) -> list[str]:
        """Make what is missing; returns the directories made. Raises StateError."""
        made = []
        for path in (self.root, os.path.join(self.root, ".queue"), self.staging, self.run):
            if not os.path.isdir(path):
                try:
                    make_directory(path)
                except OSError as error:
                    raise StateError(f"{path}: cannot make this directory: {error.strerror}") from error
                made.append(path)
        return made

    def lock(self) -> None:
        """Be the only server on this state, for as long as the process lives. Raises StateError."""
        try:
            self._lock = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{self.root}: another server is running on this state") from None
        except OSError as error:
            raise StateError(f"{self.lock_file}: cannot lock: {error.strerror}") from error

    def recover(self) -> None:
        """Remove what a crash left behind half-done: content nobody was told about. Raises StateError."""
        try:
            removed = recover(self.staging)
        except OSError as error:
            raise StateError(f"{self.staging}: cannot clean up: {error.strerror}") from error
        if removed:
            maillog.event("recovered", staged_files_removed=removed)

    def forget(self, pid: int) -> None:
        """Remove what a dead worker left behind half-done; the next start finds what this does not."""
        mark = f"P{pid}Q"
        with contextlib.suppress(OSError):
            for name in os.listdir(self.staging):
                if mark in name:
                    os.unlink(os.path.join(self.staging, name))

    def check_writable(self) -> None:
        """Whether the process, as the user it is now, can store mail. Raises StateError."""
        for path in (self.root, self.staging, self.run):
            if not os.access(path, os.W_OK | os.X_OK):
                raise StateError(f"{path}: not writable for the user the server runs as (uid {os.geteuid()})")
