"""What `maildirsize` of busy mailboxes said last, believed while the file is the one that said it.

Reading a file of some hundred lines for each message costs more than the rest of the message. So what was
read is kept, and what this process appends is added to it; whatever else happens to the file shows in its
stat, and it is read again; then only what others appended is parsed. Not here: the file's rules (`quota`).
"""

from __future__ import annotations

import os
import threading
import zlib
from typing import NamedTuple

from mailserver.mail.quota import Quota

REMEMBERED = 16_384  # mailboxes, for the whole process


class _Kept(NamedTuple):
    signature: tuple[int, int, int, int] | None  # None: the file has changed since
    size: int
    checksum: int
    quota: Quota
    storage: int
    messages: int


_kept: dict[str, _Kept] = {}
_lock = threading.Lock()


def remember(file: str, status: os.stat_result, data: bytes, quota: Quota, sums: tuple[int, int]) -> None:
    """Octets and messages by the whole lines that were read from a file after it had this status."""
    signature = _signature(status) if status.st_size == len(data) else None
    with _lock:
        _kept.pop(file, None)  # the latest comes last
        _kept[file] = _Kept(signature, len(data), zlib.crc32(data), quota, *sums)
        if len(_kept) > REMEMBERED:
            del _kept[next(iter(_kept))]


def appended(
    file: str, before: os.stat_result, after: os.stat_result, line: bytes, storage: int, messages: int
) -> None:
    """The line was written between the two; whether others wrote as well shows in the sizes."""
    with _lock:
        kept = _kept.get(file)
        if kept is None:
            return
        size = kept.size + len(line)
        storage, messages = kept.storage + storage, kept.messages + messages
        if kept.signature != _signature(before) or size != after.st_size or min(storage, messages) < 0:
            _kept[file] = kept._replace(signature=None)
            return
        checksum = zlib.crc32(line, kept.checksum)
        _kept[file] = _Kept(_signature(after), size, checksum, kept.quota, storage, messages)


def recall(file: str, quota: Quota) -> tuple[int, int] | None:
    """Octets and messages by a file that has not changed; None: read it. Costs one stat."""
    kept = _kept.get(file)
    if kept is None or kept.signature is None or kept.quota != quota:
        return None
    try:
        if kept.signature == _signature(os.lstat(file)):
            return kept.storage, kept.messages
    except OSError:
        pass
    with _lock:
        if _kept.get(file) is kept:  # a later file may get its number
            _kept[file] = kept._replace(signature=None)
    return None


def beginning(file: str, data: bytes, quota: Quota) -> tuple[int, int, int] | None:
    """How much of the data is what was read before; octets and messages by that. None: nothing."""
    kept = _kept.get(file)
    if kept is None or kept.quota != quota or kept.size > len(data):
        return None
    if zlib.crc32(memoryview(data)[: kept.size]) != kept.checksum:
        return None
    return kept.size, kept.storage, kept.messages


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
