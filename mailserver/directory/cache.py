"""Small files, read whole and parsed, kept in memory for as long as the file is what it was.

Each look-up costs one stat, of a file or of a directory; what appeared, changed or vanished counts at once,
and nothing is ever listed. Absent files are not remembered, so guessing names evicts nobody. Safe to use from
several threads. Not here: what the files mean.
"""

from __future__ import annotations

import operator
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mailserver import maillog
from mailserver.directory.entries import Malformed, Unavailable

C = TypeVar("C")
V = TypeVar("V")

# A file written twice within one tick of its file system's clock looks the same after the second write.
# Ticks are 1 to 10 ms on Linux's own file systems, and up to 2 s on old or foreign ones.
_SETTLED_NS = 2_000_000_000

Signature = tuple[int, int, int, int]
Seen = tuple[str, Signature]
"""A path, and what its stat said when a value was made of it."""


@dataclass(slots=True)
class _Entry(Generic[C, V]):
    signature: Signature | None
    settled: bool  # the signature can be trusted: it was not fresh when the value was made
    context: C | None
    value: V | None
    fault: str | None


class Kept(Generic[C, V]):
    """Values made by `make(path, found, context)` of what is at a path; `found` is its stat.

    `make` raises Malformed or OSError. At most `entries` to twice as many values are kept: when the young
    generation is full it becomes the old one, and what is asked for moves from the old to the young. So the
    busy ones stay, without bookkeeping.
    """

    def __init__(self, make: Callable[[str, os.stat_result, C], V], *, entries: int = 8192) -> None:
        self._make = make
        self._entries = entries
        self._young: dict[str, _Entry[C, V]] = {}
        self._old: dict[str, _Entry[C, V]] = {}

    def __contains__(self, path: str) -> bool:
        """Whether something was at `path` when it was asked for last, and is not forgotten."""
        return path in self._young or path in self._old

    def get(self, path: str, context: C) -> V | None:
        """The value of what is at `path`, or None if nothing is. Raises Unavailable.

        A value is kept for the very `context` it was made with.
        """
        before = time.time_ns()
        entry = self._young.get(path) or self._recall(path)
        try:
            found = os.lstat(path)  # says by itself what is no link, and what is not there
            if stat.S_ISLNK(found.st_mode):
                found = self._behind(path)
        except FileNotFoundError:
            self._young.pop(path, None)
            self._old.pop(path, None)
            return None
        except OSError as error:
            raise self.unavailable(path, reason(error)) from error
        if (
            entry is None
            or not entry.settled
            or entry.context is not context
            or entry.signature != _signature(found)
        ):
            entry = self._renew(path, found, context, before)
        if entry.fault is not None:
            raise Unavailable(path, entry.fault)
        return entry.value

    def seen(self, path: str, value: V) -> Seen | None:
        """What `value` was made of, for `is_unchanged`; None where that would prove nothing."""
        entry = self._young.get(path) or self._old.get(path)
        if entry is None or entry.value is not value or entry.signature is None or not entry.settled:
            return None
        return path, entry.signature

    def unavailable(self, path: str, reason: str) -> Unavailable:
        """Log the trouble with `path`, once as long as it stays the same, and give the exception for it."""
        self._refuse(path, _Entry(None, False, None, None, reason))
        return Unavailable(path, reason)

    def _behind(self, path: str) -> os.stat_result:
        try:
            return os.stat(path)
        except FileNotFoundError:  # the target may be on a disk that is not mounted now
            raise self.unavailable(path, "a symbolic link to nothing") from None

    def _renew(self, path: str, found: os.stat_result, context: C, before: int) -> _Entry[C, V]:
        signature, settled = _signature(found), _is_settled(found, before)
        try:
            value = self._make(path, found, context)
        except Malformed as error:
            return self._refuse(path, _Entry(signature, settled, context, None, str(error)))
        except OSError as error:  # may pass without the file changing: read again at the next look-up
            return self._refuse(path, _Entry(signature, False, None, None, reason(error)))
        return self._keep(path, _Entry(signature, settled, context, value, None))

    def _refuse(self, path: str, entry: _Entry[C, V]) -> _Entry[C, V]:
        known = self._young.get(path) or self._old.get(path)
        if known is None or (known.signature, known.fault) != (entry.signature, entry.fault):
            maillog.event("directory-unavailable", file=path, reason=entry.fault)
            maillog.count("directory.unavailable")
        return self._keep(path, entry)

    def _recall(self, path: str) -> _Entry[C, V] | None:
        entry = self._old.get(path)
        return None if entry is None else self._keep(path, entry)

    def _keep(self, path: str, entry: _Entry[C, V]) -> _Entry[C, V]:
        if len(self._young) >= self._entries:
            self._old, self._young = self._young, {}
        self._young[path] = entry
        return entry


class Files(Kept[C, V]):
    """Values parsed by `parse(path, data, context)`, which raises Malformed, of files up to `octets`."""

    def __init__(self, parse: Callable[[str, bytes, C], V], *, octets: int, entries: int = 8192) -> None:
        def make(path: str, found: os.stat_result, context: C) -> V:
            if not stat.S_ISREG(found.st_mode):  # never opened: a device could act on it
                raise Malformed("expected a regular file")
            return parse(path, read(path, octets), context)

        super().__init__(make, entries=entries)


def read(path: str, octets: int) -> bytes:
    """A regular file's content. A pipe cannot hang it.

    Raises Malformed for anything but a regular file, and above `octets`; OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Malformed("expected a regular file")
        data = b""
        while block := os.read(fd, octets + 1 - len(data)):
            data += block
        if len(data) > octets:
            raise Malformed(f"expected at most {octets} octets")
        return data
    finally:
        os.close(fd)


def reason(error: OSError) -> str:
    """The error without the path, which stands beside it."""
    return error.strerror or "cannot be read"


_signature: Callable[[os.stat_result], Signature]
_signature = operator.attrgetter("st_mtime_ns", "st_ctime_ns", "st_size", "st_ino")


def is_unchanged(seen: Sequence[Seen]) -> bool:
    """Whether each path is what it was, behind symbolic links too: then the values made of them hold."""
    try:
        for path, signature in seen:
            if _signature(os.stat(path)) != signature:
                return False
    except OSError:  # whoever looks it up says which
        return False
    return True


def _is_settled(found: os.stat_result, before: int) -> bool:
    # A change that `found` does not show came after `before`, so it leaves other times. Also false while the
    # times are ahead of our clock: then every look-up reads the file again.
    return max(found.st_mtime_ns, found.st_ctime_ns) < before - _SETTLED_NS
