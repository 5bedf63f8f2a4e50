"""What `maildirsize` of busy mailboxes said last, believed while the file is the one that said it.

Reading a file of some hundred lines for each message costs more than the rest of the message. So what was
read is kept, and what this process appends is added to it; whatever else happens to the file shows in its
stat, and it is read again. Not here: the rules of the file (`quota`).
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from mailserver.mail.quota import Quota

REMEMBERED = 16_384  # mailboxes, for the whole process


class _Kept(NamedTuple):
    signature: tuple[int, int, int, int]
    quota: Quota
    storage: int
    messages: int


_kept: dict[str, _Kept] = {}
_lock = threading.Lock()


def remember(file: str, status: os.stat_result, quota: Quota, storage: int, messages: int) -> None:
    """The sum that was read from a file of this status, and the quota it was read for."""
    with _lock:
        _kept.pop(file, None)  # the latest comes last
        _kept[file] = _Kept(_signature(status), quota, storage, messages)
        if len(_kept) > REMEMBERED:
            del _kept[next(iter(_kept))]


def appended(
    file: str, before: os.stat_result, after: os.stat_result, octets: int, storage: int, messages: int
) -> None:
    """A note of so many `octets` was written between the two; what others wrote as well is not known."""
    with _lock:
        kept = _kept.pop(file, None)
        if kept is None or kept.signature != _signature(before) or before.st_size + octets != after.st_size:
            return
        storage, messages = kept.storage + storage, kept.messages + messages
        if storage >= 0 and messages >= 0:
            _kept[file] = _Kept(_signature(after), kept.quota, storage, messages)


def recall(file: str, quota: Quota) -> tuple[int, int] | None:
    """Octets and messages by a file that has not changed; None: read it. Costs one stat."""
    kept = _kept.get(file)
    if kept is None or kept.quota != quota:
        return None
    try:
        if kept.signature == _signature(os.lstat(file)):
            return kept.storage, kept.messages
    except OSError:
        pass
    _kept.pop(file, None)  # also because a later file may get its number
    return None


def _signature(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
