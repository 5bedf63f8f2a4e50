"""The state directory: made, locked and cleaned before a server uses it.

    <maildirs>/<domain>/<user>     mailboxes
    <maildirs>/.queue              content being written, told to nobody yet; mail that leaves
    <maildirs>/.run                locks, sockets, what the sweeper remembers
    <maildirs>/.srs.key            the key of forwarded mail's senders

A leading dot can be no domain. Not here: what mailboxes hold (`mailbox`), whose process it is
(`privileges`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time

from mailserver import maillog
from mailserver.config import routes
from mailserver.config.routes import srs_key_file
from mailserver.console import client
from mailserver.durable.commit import recover
from mailserver.durable.files import create, make_directory
from mailserver.queue.spool import Spool
from mailserver.server.inside import Sockets

LOCK_PATIENCE = 2.0  # seconds


class StateError(Exception):
    """The state directory cannot be used; the text is one line for the operator."""


def srs_key(root: str) -> bytes:
    """The key of forwarded mail's senders. Raises StateError."""
    try:
        return routes.srs_key(root)
    except OSError as error:
        raise StateError(f"{srs_key_file(root)}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{srs_key_file(root)}: {error}") from None


class State:
    """The directories of one running server. Raises StateError when another server runs on them."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.staging = os.path.join(root, ".queue", "tmp")
        self.run = os.path.join(root, ".run")
        self.lock_file = os.path.join(self.run, "lock")
        self.sweep_file = os.path.join(self.run, "sweep")
        self.queue_lock_file = os.path.join(self.run, "queue.lock")
        self.policies_file = os.path.join(self.run, "mta-sts.json")
        self.spool = Spool(os.path.join(root, ".queue"))
        self.submission_socket = os.path.join(self.run, "submission.sock")
        self.control_socket = client.path_of(root)
        self.workers = Sockets(os.path.join(self.run, "workers"))
        self._lock = -1

    def prepare(self) -> list[str]:
        """Make what is missing; returns the directories and files made. Raises StateError."""
        queue = os.path.join(self.root, ".queue")
        parts = [os.path.join(queue, name) for name in ("tmp", "msg", "env")]
        directories = [self.root, queue, *parts, self.run, os.path.join(self.run, "workers")]
        made = []
        path = self.root
        try:
            for path in directories:
                if not os.path.isdir(path):
                    make_directory(path)
                    made.append(path)
            path = srs_key_file(self.root)
            if not os.path.exists(path):
                with contextlib.suppress(FileExistsError):
                    create(path, secrets.token_hex(32).encode())
                made.append(path)
        except OSError as error:
            raise StateError(f"{path}: cannot make this: {error.strerror}") from error
        srs_key(self.root)
        return made

    def lock(self) -> None:
        """Be the only server on this state, for as long as the process lives. Raises StateError.

        A command that did a server's work in its absence is waited for.
        """
        end = time.monotonic() + LOCK_PATIENCE
        try:
            self._lock = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            while True:
                try:
                    return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.1)
        except BlockingIOError:
            raise StateError(f"{self.root}: another server is running on this state") from None
        except OSError as error:
            raise StateError(f"{self.lock_file}: cannot lock: {error.strerror}") from error

    def recover(self) -> None:
        """Remove what a crash left behind half-done: content nobody was told about. Raises StateError."""
        for pid in self.workers.all():
            self.workers.forget(pid)
        try:
            removed = recover(self.staging) + self.spool.recover()
        except OSError as error:
            raise StateError(f"{self.root}/.queue: cannot clean up: {error.strerror}") from error
        if removed:
            maillog.event("recovered", staged_files_removed=removed)

    def forget(self, pid: int) -> None:
        """Remove what a dead worker left behind half-done; the next start finds what this does not."""
        self.workers.forget(pid)
        mark = f"P{pid}Q"
        with contextlib.suppress(OSError):
            for name in os.listdir(self.staging):
                if mark in name:
                    os.unlink(os.path.join(self.staging, name))
            self.spool.forget(mark)

    def check_writable(self) -> None:
        """Whether the process, as the user it is now, can store mail. Raises StateError."""
        for path in (self.root, self.staging, self.run):
            if not os.access(path, os.W_OK | os.X_OK):
                raise StateError(f"{path}: not writable for the user the server runs as (uid {os.geteuid()})")
