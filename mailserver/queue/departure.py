"""A message on its way into the queue: destinations of `durable.commit`.

Content that goes nowhere else is one file with its envelope, which is the last line: one file to make, to
sync and to remove. What has its name in `env` is accepted.
Content that mailboxes or other entries share gets a name of its own in `msg`, and the envelope is written to
`tmp` before contents are synced; the envelope's rename into `env` accepts the message. So an envelope there
always has its content, and the queue costs a commit no pass over the disk of its own.
Not here: what becomes of the entry afterwards (`queue.spool`).
"""

from __future__ import annotations

import os

from mailserver import maillog
from mailserver.durable.commit import Prepared, sync_files
from mailserver.durable.files import sync_directory
from mailserver.queue.entry import HELD, Entry, encode, tail


class Departure:
    """The name of a message in the spool at `root`. Its file must hold `tail`, after the content."""

    def __init__(self, root: str, entry: Entry) -> None:
        self.entry = entry
        self.directory = os.path.join(root, "env")
        self._envelope = os.path.join(self.directory, entry.id)
        self._linked = False

    @property
    def tail(self) -> bytes:
        """What follows the content in its file; nothing where the envelope has one of its own."""
        return tail(self.entry)

    def open(self) -> int:
        """A descriptor of `env`. Raises OSError."""
        return os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def link(self, source: str, directory: int, *, last: bool) -> bool:
        """Accept the message: all of the spool is on the file system of `source`. Raises OSError."""
        os.utime(source, (self.entry.due, self.entry.due))
        os.rename(source, self.entry.id, dst_dir_fd=directory)
        self._linked = True
        return True

    def unlink(self) -> None:
        """Take the message back; silent when it is gone, and never raises."""
        self._discard(self._envelope)

    def _discard(self, *paths: str) -> None:
        for path in paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if self._linked:  # the client hears of a failure and sends it again: a second copy
                    maillog.event("not-taken-back", id=self.entry.id, error=error.strerror)


class SharedDeparture(Departure, Prepared):
    """The names of a message whose content is not the queue's alone."""

    def __init__(self, root: str, entry: Entry) -> None:
        super().__init__(root, entry)
        self._contents = os.path.join(root, "msg")
        self._content = os.path.join(self._contents, entry.id)
        self._written = os.path.join(root, "tmp", f"{entry.id}.env")

    @property
    def tail(self) -> bytes:
        return b""

    def prepare(self, source: str) -> None:
        """Name the content at `source`, and write the envelope where nobody looks. Raises OSError."""
        write_envelope(self._written, self.entry)
        os.link(source, self._content)

    def sync(self) -> None:
        """Make both durable. Raises OSError."""
        sync_files([self._written])
        sync_directory(self._contents)

    def link(self, source: str, directory: int, *, last: bool) -> bool:
        """Accept the message: all of the spool is on the file system of `source`. Raises OSError."""
        os.rename(self._written, self.entry.id, dst_dir_fd=directory)
        self._linked = True
        if last:
            os.unlink(source)
        return True

    def unlink(self) -> None:
        self._discard(self._envelope, self._written, self._content)


def write_envelope(path: str, entry: Entry) -> None:
    """Write an envelope to the new file `path`, unsynced; its mtime says when it is due. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(encode(entry))
        while view:
            view = view[os.write(fd, view) :]
        due = min(entry.due, HELD)
        os.utime(fd, (due, due))
    finally:
        os.close(fd)
