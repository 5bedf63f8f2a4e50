"""A mailbox: its messages as they are now, opening one, and the place of a message that arrives.

Other programs rename and remove messages at any time. A message is therefore known by the unique part of
its name, followed where it went, and Gone when it is in neither `new` nor `cur`.
Not here: Trash, quota, POP3's unique ids and lock, which are modules of their own.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from mailserver.durable import files
from mailserver.mailbox import dovecot, lock, trouble, wire
from mailserver.mailbox.arrival import Arrival
from mailserver.mailbox.names import Message, unique_name
from mailserver.mailbox.snapshot import Snapshot, snapshot
from mailserver.mailbox.tree import (
    SUBDIRECTORIES,
    TRASH,
    Directories,
    make_folder,
    messages_in,
    open_directory,
    open_regular,
    opened,
    read_once,
)

__all__ = ["Gone", "Maildir", "Message", "unique_name"]

REMEMBERED = 65_536  # wire sizes that had to be counted, kept for the whole process
_SCANS = 2  # a scan may miss a name that is renamed meanwhile; two in a row do not

_counted: OrderedDict[tuple[str, str], int] = OrderedDict()
_counted_lock = threading.Lock()


class Gone(Exception):
    """Another program has removed the message."""


class Maildir:
    """The mailbox at `path`, which need not exist yet. An instance serves one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._moved: dict[str, Message] = {}
        self._listed: dict[str, int] | None = None

    @property
    def label(self) -> str:
        """The mailbox for the log."""
        return trouble.label(self.path)

    def exists(self) -> bool:
        """Whether anything was ever delivered. Raises OSError where that cannot be told."""
        try:
            os.stat(self.path)
        except FileNotFoundError:
            if os.path.islink(self.path):  # moved to where nothing is now: that hides mail
                raise
            return False
        return True

    def create(self) -> None:
        """Make what is missing of the mailbox, durably; harmless for one that is whole. Raises OSError.

        Trash and the file of POP3's lock too, where that is possible: on a full disk it is too late for them,
        and mail must still be read and deleted.
        """
        for name in SUBDIRECTORIES:
            files.make_directory(os.path.join(self.path, name))
        with contextlib.suppress(OSError):
            make_folder(self.path, TRASH)
        with contextlib.suppress(OSError):
            files.write_new(os.path.join(self.path, lock.FILE), b"")

    def scan(self) -> list[Message]:
        """All messages in the order of delivery. Opens no message. Raises OSError."""
        return list(self.snapshot())

    def snapshot(self) -> Snapshot:
        """What `scan` finds, as it suits a large mailbox. Raises OSError.

        `new` is read first: a message that moves to `cur` meanwhile is seen twice, and counts once.
        """
        return snapshot(self._names("new"), self._names("cur"))

    def open(self, message: Message) -> int:
        """A descriptor of the message's file, wherever it is now. Raises Gone or OSError."""
        for place in self.places(message):
            with contextlib.suppress(FileNotFoundError), opened(self.path, place.subdirectory) as directory:
                return open_regular(place.name, directory)
        raise Gone

    def places(self, message: Message) -> Iterator[Message]:
        """Where the message may be: as given, then where another program has put it meanwhile."""
        yield message
        if message.unique in self._moved:
            yield self._moved[message.unique]
        for _ in range(_SCANS):
            self._moved = {found.unique: found for found in self.scan()}
            if message.unique in self._moved:
                yield self._moved[message.unique]

    def read_small(self, messages: Iterable[tuple[Message, int]]) -> list[bytes]:
        """The dot-stuffed wire forms of messages of so many octets each on the wire, in the fewest steps.

        It ends before the first that is not where it was, not readable, or of another size.
        """
        found: list[bytes] = []
        with Directories(self.path) as directories, contextlib.suppress(OSError):
            for (name, subdirectory), size in messages:
                content = read_once(name, directories.opened(subdirectory), size + 1)
                if (form := wire.whole(content, size)) is None:
                    break
                found.append(form)
        return found

    def read_wire(self, message: Message, *, dot_stuffed: bool = False) -> WireReader:
        """Blocks of the message's wire form, see `wire.blocks`. Raises Gone or OSError, here or later."""
        return WireReader(self.open(message), dot_stuffed)

    def wire_size(self, message: Message) -> int:
        """Octets of the wire form: from the name, Dovecot's list, or counted once. Raises Gone or OSError.

        Names are believed. One that another program made for a message without a last line end says two
        octets less than are sent, as that program does itself.
        """
        if (size := message.wire_size) is not None:
            return size
        if self._listed is None:
            self._listed = {}
            with contextlib.suppress(OSError):  # it spares counting; without it no mail is hidden
                self._listed = dovecot.wire_sizes(self.path)
        if (size := self._listed.get(message.unique)) is not None:
            return size
        return self._count(message)

    def arrival(self, unique: str, size: int, wire_size: int) -> Arrival:
        """The destination of a message: `size` octets on disk, `wire_size` on the wire, into `new`."""
        return Arrival(self, f"{unique},S={size},W={wire_size}")

    def _count(self, message: Message) -> int:
        key = self.path, message.unique
        with _counted_lock:
            if key in _counted:
                return _counted[key]
        size = sum(map(len, self.read_wire(message)))
        with _counted_lock:
            _counted[key] = size
            if len(_counted) > REMEMBERED:
                _counted.popitem(last=False)
        return size

    def _names(self, subdirectory: str) -> list[str]:
        try:
            directory = open_directory(f"{self.path}/{subdirectory}")
        except FileNotFoundError:  # never delivered to
            return []
        try:
            return messages_in(directory)
        finally:
            os.close(directory)


class WireReader(Iterator[bytes]):
    """Blocks of an open message; closes it at the end, at an error, or when told to."""

    def __init__(self, fd: int, dot_stuffed: bool) -> None:
        self._file = os.fdopen(fd, "rb", buffering=0)
        self._blocks = wire.blocks(self._file.read, dot_stuffed=dot_stuffed)

    def __next__(self) -> bytes:
        try:
            return next(self._blocks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()
