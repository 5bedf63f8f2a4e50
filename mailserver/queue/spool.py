"""The queue on disk: every state of a message is a name in one of three directories.

    1  tmp/<name>                 content being written, told to nobody
    2  env/<id>                   accepted: content, and the envelope as the last line; the mtime is the time
                                  of the next attempt
    3  msg/<id> env/<id>          the same, content and envelope apart: from the first change of the envelope
                                  on, or from the beginning where others share the content
    4  env/<id> replaced          after each recipient that was settled
    5  msg/<id> without env/<id>  not yet accepted, or all settled; swept now or at the next start

No locks, and nothing a crash could leave behind that `recover` does not remove. An envelope always has its
content, for it comes after and goes before it. Plain synchronous Python; the caller decides on the thread.
Not here: how a message comes in (`queue.departure`), when it is tried (`queue.runner`).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from mailserver.durable.commit import sync_files
from mailserver.durable.files import make_directory, sync_directory
from mailserver.mail.envelope import Envelope
from mailserver.mail.trace import without_return_path
from mailserver.queue.departure import Departure, SharedDeparture, write_envelope
from mailserver.queue.entry import Entry, Status, Unreadable, begin, decode, encode, is_id, tail
from mailserver.queue.files import ends_at, envelope_of, is_there, octets_at, open_regular

_counter = itertools.count()


class Missing(LookupError):
    """There is no such entry."""


class Damaged(OSError):
    """Content that is not what came; `octets` of it."""

    def __init__(self, octets: int) -> None:
        super().__init__(errno.EIO, "Not the size it came with")
        self.octets = octets


class Spool:
    """The queue in `root`. `clock` gives UNIX time for new entries."""

    def __init__(self, root: str, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock
        self._tmp = os.path.join(root, "tmp")
        self._msg = os.path.join(root, "msg")
        self._env = os.path.join(root, "env")

    def prepare(self) -> None:
        """Make the directories that are missing. Raises OSError."""
        for path in (self._tmp, self._msg, self._env):
            make_directory(path)

    def recover(self) -> int:
        """Remove content that no envelope accepts; how many files. Raises OSError.

        Called at start, before the first message, by the only server on this state. What a crash leaves in
        `tmp` goes with everything else staged there (`durable.commit.recover`).
        """
        sync_directory(self._env)  # what the last run removed must not come back without its content
        accepted = set(os.listdir(self._env))
        removed = 0
        for name in set(os.listdir(self._msg)) - accepted:
            with contextlib.suppress(IsADirectoryError):  # not ours, and in nobody's way
                os.unlink(os.path.join(self._msg, name))
                removed += 1
        return removed

    def forget(self, mark: str) -> None:
        """Remove content without an envelope whose id has `mark`, that of a process that is dead.

        Such content is nobody's: who was to accept it cannot any more. Raises OSError.
        """
        for name in os.listdir(self._msg):
            if mark in name and not is_there(os.path.join(self._env, name)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._msg, name))

    def destination(
        self,
        entry_id: str,
        envelope: Envelope,
        *,
        size: int,
        wire_size: int,
        user: str = "",
        settled: Sequence[Status] = (),
        shared: bool = True,
    ) -> Departure:
        """Where a message is committed to: `size` octets at rest, `wire_size` with CRLF, from `user`.

        `settled`: how it ended for its recipients, where that is only to be reported. Not `shared`: the
        content goes nowhere else, and the destination's `tail` is written behind it.
        """
        entry = begin(
            entry_id,
            envelope,
            size=size,
            wire_size=wire_size,
            user=user,
            now=self._clock(),
            settled=settled,
            inside=not shared,
        )
        return SharedDeparture(self.root, entry) if shared else Departure(self.root, entry)

    def ids(self, after: str = "") -> Iterator[tuple[str, float]]:
        """Every entry with the time it is due, in no order; nothing is opened, and what has an id up to
        `after` is not looked at. Raises OSError."""
        with os.scandir(self._env) as names:
            for name in names:
                if name.name > after and is_id(name.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield name.name, name.stat(follow_symlinks=False).st_mtime

    def load(self, entry_id: str) -> Entry:
        """One entry. Raises Missing, Unreadable, OSError."""
        try:
            entry = decode(envelope_of(self._path(self._env, entry_id)))
        except FileNotFoundError:
            raise Missing(entry_id) from None
        if entry.id != entry_id:
            raise Unreadable("another entry's id")
        return entry

    def check(self, entry_id: str) -> None:
        """Raises Missing if there is no such entry; OSError."""
        if not is_there(self._path(self._env, entry_id)):
            raise Missing(entry_id)

    def is_as_it_came(self, entry: Entry) -> bool:
        """Whether the disk has a new entry as it was accepted: every change has another size, or is due at
        another time. False where that cannot be told."""
        try:
            status = os.lstat(self._path(self._env, entry.id))
        except OSError:
            return False
        size = entry.size + len(tail(entry)) if entry.inside else len(encode(entry))
        return status.st_size == size and abs(status.st_mtime - entry.due) < 1e-3

    def content_size(self, entry: Entry) -> int | None:
        """Octets of the content; None if somebody took it away. Raises OSError, for what is no file too."""
        try:
            os.close(self.open_content(entry))
        except Damaged as damaged:
            return damaged.octets
        except Missing:
            return None
        return entry.size

    def open_content(self, entry: Entry, flags: int = 0) -> int:
        """A descriptor of a file that begins with the content, LF line ends; what follows it is not to be
        read. `flags` of preadv(2): RWF_NOWAIT raises OSError where the disk would be waited for.

        Raises Missing, Damaged if there is not `entry.size` of it, OSError.
        """
        fd = self._open_inside(entry, flags)
        if fd is not None:
            return fd
        try:
            fd = open_regular(self._path(self._msg, entry.id))
        except FileNotFoundError:
            raise Missing(entry.id) from None
        try:
            octets = os.fstat(fd).st_size
            if octets == entry.size or ends_at(fd, entry.size, flags):
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        raise Damaged(octets)

    def _open_inside(self, entry: Entry, flags: int = 0) -> int | None:
        """The file of the envelope, if the content is in it, too; `entry` may be older than what is on the
        disk. Raises Damaged, OSError."""
        if not entry.inside:
            return None
        try:
            fd = open_regular(self._path(self._env, entry.id))
        except FileNotFoundError:
            return None
        try:
            if ends_at(fd, entry.size, flags):
                return fd
            octets = os.fstat(fd).st_size
            apart = octets_at(fd, 1, 0, flags) == b"{"
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        if apart:
            return None
        raise Damaged(octets - len(tail(entry)))

    def beginning(self, entry: Entry, limit: int) -> bytes:
        """The first `limit` octets of the content, as it leaves. Raises what `open_content` does."""
        with os.fdopen(self.open_content(entry), "rb") as file:
            return without_return_path(file.read(min(limit, entry.size)))

    def store(self, entry: Entry) -> None:
        """Replace an entry that is there. Raises OSError."""
        self._raise(self.apply([entry], []))

    def remove(self, entry_id: str) -> None:
        """Remove an entry for good; silent when it is gone. Raises OSError."""
        self._raise(self.apply([], [entry_id]))
        self.sweep([entry_id])

    def apply(self, stored: Sequence[Entry], removed: Sequence[str]) -> dict[str, OSError]:
        """Replace some entries and remove others, sharing the syncs; by id, what went wrong.

        When this returns, what is not in the result survives the end of the process, and what was stored a
        power cut too. What was removed does so when it is swept.
        """
        errors: dict[str, OSError] = {}
        for entry_id in removed:  # first: until then a crash makes a copy, and the rest waits for the disk
            with _noting(errors, entry_id), contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(self._env, entry_id))
        written = self._write(stored, errors)
        for entry_id, path in written.items():
            with _noting(errors, entry_id):
                os.rename(path, self._path(self._env, entry_id))
        if written:
            try:
                sync_directory(self._env)
            except OSError as error:
                errors.update(dict.fromkeys(written, error))
        return errors

    def sweep(self, removed: Sequence[str]) -> None:
        """Remove the contents of entries that `apply` removed, which are gone for good then. Raises OSError.

        The envelopes' end is made durable first: one that came back must find its content.
        """
        sync_directory(self._env)
        for entry_id in removed:
            with contextlib.suppress(OSError):  # the next start sweeps it
                os.unlink(self._path(self._msg, entry_id))

    def _write(self, entries: Sequence[Entry], errors: dict[str, OSError]) -> dict[str, str]:
        """Write envelopes to `tmp`, durably; their paths by id."""
        written: dict[str, str] = {}
        for entry in entries:
            path = os.path.join(self._tmp, f"P{os.getpid()}Q{next(_counter)}.env")
            with _noting(errors, entry.id):
                self._part(entry)
                try:
                    write_envelope(path, replace(entry, inside=False))
                except OSError:
                    _discard(path)
                    raise
                written[entry.id] = path
        try:
            sync_files(list(written.values()))
            if any(entry.inside for entry in entries):
                sync_directory(self._msg)
        except OSError as error:
            errors.update(dict.fromkeys(written, error))
            for path in written.values():
                _discard(path)
            return {}
        return written

    def _part(self, entry: Entry) -> None:
        """Give content that stands before its envelope a name of its own: the envelope will be replaced."""
        with contextlib.suppress(Damaged):  # a hand may mend it
            fd = self._open_inside(entry)
            if fd is None:
                return
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(self._path(self._env, entry.id), self._path(self._msg, entry.id))

    def _path(self, directory: str, entry_id: str) -> str:
        if not is_id(entry_id):
            raise Missing(entry_id)
        return os.path.join(directory, entry_id)

    @staticmethod
    def _raise(errors: dict[str, OSError]) -> None:
        for error in errors.values():
            raise error


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


@contextlib.contextmanager
def _noting(errors: dict[str, OSError], entry_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        errors[entry_id] = error
