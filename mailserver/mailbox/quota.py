"""How much a mailbox holds, kept in `maildirsize` by the Maildir++ rules and shared with other programs.

The first line is the quota in force, `<octets>S,<messages>C`; each further line adds `<octets> <messages>`
and is one appended write, which needs no lock. Sums may be off by a race; the rules heal that: nobody is
found to be over quota by a sum that was not counted anew. Mail in Trash does not count.

What takes long, counting, happens when the quota is asked for; `add` is a single short write, because it
runs where messages are committed. Not here: what the quota of a mailbox is (`mail.quota`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mailserver.durable.files import inherit_owner
from mailserver.mail.quota import Quota
from mailserver.mailbox import tally, trouble
from mailserver.mailbox.names import Message, unique_name
from mailserver.mailbox.tree import TRASH, folders, messages_in, open_regular, opened

if TYPE_CHECKING:
    from mailserver.mailbox.maildir import Maildir

FILE = "maildirsize"
LIMIT = 5120  # octets; a file that long is counted anew
TRUSTED = 15 * 60  # seconds that a sum over the quota is believed, if it is a fresh count

_TRIES = 5  # to note something in a file that others replace
_PATIENCE = 2.0  # seconds to wait for another's count
_HOLDING = b"-\n"  # a first line that is nobody's quota

_QUOTA = re.compile(r"\s*(\d{1,18})([SC])\s*")
_NOTES = re.compile(rb"(?:[ \t]*+-?\d{1,18}+[ \t]++-?\d{1,18}+[ \t\r]*+(?:\n|\Z))*+")


class Usage(NamedTuple):
    """What a mailbox holds: octets on disk and messages, Trash left out."""

    storage: int
    messages: int

    def exceeds(self, quota: Quota) -> bool:
        return 0 < quota.storage < self.storage or 0 < quota.messages < self.messages


class _Sum(NamedTuple):
    usage: Usage
    fresh: bool  # counted within TRUSTED seconds and nothing added since


def usage(maildir: Maildir, quota: Quota) -> Usage:
    """What the mailbox holds: from `maildirsize`, else counted. Raises OSError."""
    if not any(quota):
        return _count(maildir.path)
    kept = _read(maildir.path, quota)
    return kept.usage if kept else _recalculate(maildir.path, quota)


def fits(maildir: Maildir, quota: Quota, octets: int) -> bool:
    """Whether one more message of `octets` is within the quota for sure, at the price of one stat.

    False says nothing: ask `is_over`, which may read and count.
    """
    if not any(quota):
        return True
    kept = tally.recall(_file(maildir.path), quota)
    return kept is not None and not _with(Usage(*kept), octets).exceeds(quota)


def is_over(maildir: Maildir, quota: Quota, octets: int) -> bool:
    """Whether one more message of `octets` would exceed the quota. Raises OSError."""
    if fits(maildir, quota, octets):
        return False
    kept = _read(maildir.path, quota)
    if kept and (kept.fresh or not _with(kept.usage, octets).exceeds(quota)):
        return _with(kept.usage, octets).exceeds(quota)
    return _with(_recalculate(maildir.path, quota), octets).exceeds(quota)


def add(maildir: Maildir, storage: int, messages: int) -> None:
    """Note that octets and messages came or (negative) went, where somebody keeps count; never raises.

    A note that is lost is found again when the mailbox is counted anew. Where the file is another one at each
    look (some network file systems number files anew), nobody knows what is noted: then it goes, and the next
    who asks counts.
    """
    line = b"%d %d\n" % (storage, messages)
    try:
        for _ in range(_TRIES):
            if (written := _append(maildir.path, line)) is not None:
                break
        else:
            os.unlink(_file(maildir.path))
            raise OSError(errno.ESTALE, "the file is replaced at each look")
    except FileNotFoundError:
        return
    except OSError as error:
        trouble.log("quota-not-kept", maildir.path, error)
        return
    if written[1].st_size < LIMIT:
        tally.appended(_file(maildir.path), *written, line, storage, messages)


def _append(path: str, lines: bytes) -> tuple[os.stat_result, os.stat_result] | None:
    """Add lines, between two looks at the file; None if it was replaced meanwhile by one that has not got
    them. Raises OSError."""
    file = _file(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(file, flags)
    try:
        before = os.fstat(fd)
        if before.st_size < LIMIT:  # else the next reader counts anew in any case
            os.write(fd, lines)
        after = os.lstat(file)
    finally:
        os.close(fd)
    return (before, after) if before.st_ino == after.st_ino else None


def _file(path: str) -> str:
    return os.path.join(path, FILE)


def _with(usage: Usage, octets: int) -> Usage:
    return Usage(usage.storage + octets, usage.messages + 1)


def _read(path: str, quota: Quota) -> _Sum | None:
    """The sum of `maildirsize`, or None where it is to be counted anew."""
    file = _file(path)
    try:
        with os.fdopen(open_regular(file), "rb") as lines:
            status = os.fstat(lines.fileno())
            data = lines.read(LIMIT)
    except OSError:  # missing, or no file that anybody could have written by the rules
        return None
    usage = None if len(data) >= LIMIT else _sum(file, data, quota)
    if usage is None:
        return None
    if data.endswith(b"\n"):
        tally.remember(file, status, data, quota, usage)
    single = data.strip().count(b"\n") == 1
    return _Sum(usage, single and 0 <= time.time() - status.st_mtime < TRUSTED)


def _sum(file: str, data: bytes, quota: Quota) -> Usage | None:
    if (begun := tally.beginning(file, data, quota)) is not None:
        at, storage, messages = begun
    else:
        at, storage, messages = data.find(b"\n") + 1, 0, 0
        if not data[at:] or _parse_quota(data[:at].decode("ascii", "replace")) != quota:
            return None
    if not _NOTES.fullmatch(data, at):
        return None
    numbers = [int(number) for number in data[at:].split()]
    usage = Usage(storage + sum(numbers[::2]), messages + sum(numbers[1::2]))
    return usage if min(usage) >= 0 else None


def _parse_quota(line: str) -> Quota | None:
    limits = {"S": 0, "C": 0}
    for part in line.split(","):
        match = _QUOTA.fullmatch(part)
        if match is None:
            return None
        limits[match[2]] = int(match[1])
    return Quota(limits["S"], limits["C"])


def _recalculate(path: str, quota: Quota) -> Usage:
    """Count, and write `maildirsize` anew. Raises OSError.

    One does it at a time, and who waited takes that count. Meanwhile a file that is no sum for anybody holds
    the place: mail that arrives during the count is noted there and carried over. So it may be counted twice,
    which is found out before anybody is over quota, and never not at all.
    """
    with _turn(path):
        kept = _read(path, quota)
        if kept and kept.fresh:
            return kept.usage
        holding = _keep(path, _HOLDING)
        counted = _count(path)
        if holding:
            _carry_over(path, quota, counted)
    return counted


@contextlib.contextmanager
def _turn(path: str) -> Iterator[None]:
    """Wait for others who count this mailbox, but not for ever; where no lock can be had, go on without."""
    until = time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            directory = held.enter_context(opened(path))
            while not _locked(directory) and time.monotonic() < until:
                time.sleep(0.005)
        yield


def _locked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _carry_over(path: str, quota: Quota, counted: Usage) -> None:
    """Replace the file that held the place by one with a sum, and what was noted in between."""
    limits = ",".join(f"{limit}{kind}" for limit, kind in zip(quota, "SC", strict=True) if limit)
    data = f"{limits}\n{counted.storage} {counted.messages}\n".encode()
    try:
        with os.fdopen(open_regular(_file(path)), "rb") as held:
            held.seek(len(_HOLDING))
            _keep(path, data + _arrivals(held.read(LIMIT)))
            if late := _arrivals(held.read(LIMIT)):
                _append(path, late)
    except OSError as error:
        trouble.log("quota-not-kept", path, error)


def _arrivals(lines: bytes) -> bytes:
    """Without what left: that may have gone before it was counted."""
    return b"".join(line for line in lines.splitlines(keepends=True) if not line.lstrip().startswith(b"-"))


def _keep(path: str, data: bytes) -> bool:
    """Write `maildirsize`, if the disk lets us: a count that cannot be kept is still right."""
    try:
        _write(path, data)
    except FileNotFoundError:  # no mailbox yet, so nothing to keep
        return False
    except OSError as error:
        trouble.log("quota-not-kept", path, error)
        return False
    return True


def _write(path: str, data: bytes) -> None:
    name = unique_name()
    with opened(path, "tmp") as tmp:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=tmp), "wb") as file:
                inherit_owner(file.fileno(), path)
                file.write(data)
            os.rename(name, _file(path), src_dir_fd=tmp)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=tmp)
            raise


def _counted_folders(path: str) -> list[tuple[str, ...]]:
    try:
        inner = [(folder,) for folder in folders(path) if folder != TRASH]
    except FileNotFoundError:  # never delivered to
        return []
    return [(*folder, subdirectory) for folder in [(), *inner] for subdirectory in ("new", "cur")]


def _count(path: str) -> Usage:
    """All that is in `new` and `cur` of the mailbox and its folders; stats where no name tells the size."""
    storage = messages = 0
    for names in _counted_folders(path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), opened(path, *names) as directory:
            for name in messages_in(directory):
                size = Message(name, names[-1]).size
                if size is None:
                    try:
                        size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
                storage, messages = storage + size, messages + 1
    return Usage(storage, messages)
