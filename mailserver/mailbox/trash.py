"""The Trash of a mailbox: the Maildir++ folder `.Trash`, where deleted mail waits for its expiry.

How long a message has been there is its file's ctime: moving it in sets that, nothing but root's clock can
set it back, and the mtime stays the date of arrival, which IMAP shows. Whatever touches the file later (a
flag, a backup brought back) makes it stay longer, never shorter.

A message in Trash does not have the flag `T`: other programs hide or remove what is marked as deleted, and
here it must be seen and restorable. It does not count for the quota.
Not here: when to expire (`sweep`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from mailserver.durable import files
from mailserver.mailbox import quota
from mailserver.mailbox.maildir import Gone, Maildir
from mailserver.mailbox.names import Message, unique_name, with_flags
from mailserver.mailbox.tree import TRASH, Directories, make_folder, messages_in, opened

_CUR = f"{TRASH}/cur"


class Trashed(NamedTuple):
    """A message in Trash: `size` in octets on disk, `trashed_at` in seconds since the epoch."""

    name: str
    unique: str
    size: int
    trashed_at: float


class Trash:
    """The Trash of one mailbox. What it moves is durable after `sync`."""

    def __init__(self, maildir: Maildir) -> None:
        self._maildir = maildir
        self._touched: dict[str, None] = {}  # where a message is now stands before where it was
        self._known: dict[str, Message] = {}
        self._present: set[str] = set()

    def discard(self, *messages: Message) -> list[OSError]:
        """Move messages to Trash, with their flags; what was wrong, once for each that could not be moved.

        One that is gone already is no trouble. What is common to all of them is done once.
        """
        errors: list[OSError] = []
        octets = moved = 0
        with Directories(self._maildir.path) as directories:
            try:
                make_folder(self._maildir.path, TRASH)
                trash = directories.opened(TRASH, "cur")
            except OSError as error:
                return [error] * len(messages)
            for message in messages:
                try:
                    octets += self._discard(message, directories, trash)
                    moved += 1
                except Gone:
                    continue
                except OSError as error:
                    errors.append(error)
        if moved:
            quota.add(self._maildir, -octets, -moved)
        return errors

    def sync(self) -> None:
        """Make all moves since the last call durable; one call for many messages. Raises OSError."""
        for directory in list(self._touched):
            files.sync_directory(os.path.join(self._maildir.path, directory))
            del self._touched[directory]

    def list(self, older_than: float | None = None) -> list[Trashed]:
        """What is in Trash, or has been for more than `older_than` seconds; newest first. Raises OSError."""
        found = [trashed for place in self._places() if (trashed := self._look(place))]
        if older_than is not None:
            latest = time.time() - older_than
            found = [trashed for trashed in found if trashed.trashed_at < latest]
        return sorted(found, key=lambda trashed: (trashed.trashed_at, trashed.name), reverse=True)

    def restore(self, unique: str) -> Message:
        """Move a message back into `cur`, durably, and return its place.

        It keeps its flags, so one that nobody has read is unread again. Its mailbox may go over quota: what
        was deleted by mistake comes back in any case. Raises Gone if it is not in Trash, FileExistsError if
        the mailbox has a message of that name, or OSError.
        """
        if unique not in self._known:  # one look at both for any number of messages
            self._known = {place.unique: place for place in self._places()}
            self._present = {message.unique for message in self._maildir.scan()}
        if unique in self._present:
            raise FileExistsError(errno.EEXIST, "the mailbox has a message of this name")
        place = self._known.pop(unique, None)
        trashed = self._look(place) if place else None
        if place is None or trashed is None:
            raise Gone
        restored = Message(with_flags(place.name, place.flags.replace("T", "")), "cur")
        with self._opened(place.subdirectory) as trash, opened(self._maildir.path, "cur") as cur:
            os.rename(place.name, restored.name, src_dir_fd=trash, dst_dir_fd=cur)
        self._present.add(unique)
        self._touched["cur"] = self._touched[f"{TRASH}/{place.subdirectory}"] = None
        self.sync()
        quota.add(self._maildir, trashed.size, 1)
        return restored

    def remove(self, trashed: Trashed) -> bool:
        """Remove one message for good; False if it is gone or was renamed since the listing. Raises OSError.

        Not synced: after a power cut a removed message may be back, to be removed again.
        """
        for subdirectory in ("cur", "new"):
            with contextlib.suppress(FileNotFoundError), self._opened(subdirectory) as trash:
                os.unlink(trashed.name, dir_fd=trash)
                return True
        return False

    def _discard(self, message: Message, directories: Directories, trash: int) -> int:
        """Move one message, wherever it is now; returns its size on disk. Raises Gone, OSError."""
        for place in self._maildir.places(message):
            try:
                size = _move(place, directories.opened(place.subdirectory), trash)
            except FileNotFoundError:
                continue
            self._touched[_CUR] = self._touched[place.subdirectory] = None
            return size
        raise Gone

    def _opened(self, subdirectory: str) -> contextlib.AbstractContextManager[int]:
        return opened(self._maildir.path, TRASH, subdirectory)

    def _places(self) -> Iterator[Message]:
        """All messages in Trash, in no order."""
        for subdirectory in ("new", "cur"):
            with contextlib.suppress(FileNotFoundError), self._opened(subdirectory) as directory:
                yield from [Message(name, subdirectory) for name in messages_in(directory)]

    def _look(self, place: Message) -> Trashed | None:
        with contextlib.suppress(FileNotFoundError), self._opened(place.subdirectory) as directory:
            status = os.stat(place.name, dir_fd=directory, follow_symlinks=False)
            return Trashed(place.name, place.unique, status.st_size, status.st_ctime)
        return None


def _move(place: Message, source: int, trash: int) -> int:
    """Rename into Trash; returns the size on disk. Raises OSError."""
    if (size := place.size) is None:
        size = os.stat(place.name, dir_fd=source, follow_symlinks=False).st_size
    flags = place.flags.replace("T", "")
    name = with_flags(place.name, flags)
    if os.access(name, os.F_OK, dir_fd=trash):  # a copy by another program: keep both
        name = name.replace(place.unique, unique_name(), 1)
    try:
        os.rename(place.name, name, src_dir_fd=source, dst_dir_fd=trash)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # it came without flags
            raise
        os.rename(place.name, with_flags(unique_name(), flags), src_dir_fd=source, dst_dir_fd=trash)
    return size
