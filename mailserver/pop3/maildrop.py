"""A maildrop: the numbered snapshot of a mailbox that a session sees, under the session's lock.

Numbers are bound to messages when it is opened; no message is read for that as long as names tell sizes.
Everything that touches the disk runs in a pool's thread. A mailbox to which nothing was ever delivered is
an empty maildrop; reading makes no directories. Trouble is logged here and told to the session as
Unavailable, without its cause. Not here: marks and answers (`pop3.transaction`).
"""

from __future__ import annotations

import errno
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import accumulate
from typing import ParamSpec, TypeVar

from mailserver import maillog
from mailserver.mailbox import lock, maildir, wire
from mailserver.mailbox.maildir import Maildir, Message
from mailserver.mailbox.snapshot import Snapshot
from mailserver.mailbox.trash import Trash
from mailserver.mailbox.uidl import unique_ids
from mailserver.pool import Busy, Pool
from mailserver.pop3 import answer
from mailserver.pop3.top import top
from mailserver.pop3.transaction import Gone, InUse, Removal, Unavailable
from mailserver.transport.driver import Answer

SMALL = 128 * 1024
"""Octets of a message that is read as a whole, with further ones for a client that takes them in order.

A larger one is streamed.
"""
MOST_AHEAD = 31
TOP_BLOCK = 16 * 1024
SMALLEST_BLOCK = 4 * 1024

_PERMANENT = {errno.EACCES, errno.EPERM, errno.EROFS}
_THIS_ONE = {errno.ELOOP, errno.EINVAL, errno.EACCES, errno.EPERM}
"""What is wrong with one file only; anything else, such as EMFILE, would hide mail that is there."""
_OCTETS = b"%d octets"
_END = b".\r\n"

P = ParamSpec("P")
T = TypeVar("T")


class MailboxMaildrop:
    """The maildrop of a mailbox, once `open` has come back."""

    def __init__(self, mailbox: Maildir, pool: Pool) -> None:
        self.sizes: Sequence[int] = ()
        self._maildir = mailbox
        self._lock = lock.Lock(mailbox.path)
        self._pool = pool
        self._messages = Snapshot((), (), ())
        self._ids: Sequence[str] | None = ()
        self._ahead: dict[int, Answer] = {}
        self._last = self._run_length = 0  # the message asked for last, and how many trips in order before it
        self._closed = self._updating = False

    async def open(self) -> None:
        """Lock and number the mailbox. Raises InUse, Unavailable; then, or if cancelled, it is closed."""
        try:
            await self._run(self._load)
        except BaseException:
            self.close()
            raise

    def unique_ids(self) -> Sequence[str]:
        if self._ids is None:
            raise Unavailable
        return self._ids

    def at_hand(self, number: int) -> Answer | None:
        """A client that takes one message after the other finds most of them read already."""
        if (message := self._ahead.pop(number, None)) is not None:
            self._last = number
        return message

    async def retrieve(self, number: int) -> Answer:
        if (ready := self.at_hand(number)) is not None:
            return ready
        self._run_length = self._run_length + 1 if number == self._last + 1 else 0
        self._last = number
        further = MOST_AHEAD if self._run_length > 1 else 0
        message, self._ahead = await self._run(self._read_from, number, further)
        return message

    async def top(self, number: int, lines: int) -> Answer:
        return await self._run(self._read_top, number, lines)

    async def discard(self, numbers: Collection[int]) -> Removal:
        self._updating = True
        try:
            return await self._run(self._move_to_trash, numbers)
        except Unavailable:
            self._updating = False
            raise

    def close(self) -> None:
        """Release the lock; while messages are being moved to Trash, that happens after the last one."""
        self._closed = True
        self._ahead = {}
        if not self._updating:
            self._lock.release()

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` in a thread of the pool; trouble becomes what the session knows."""
        try:
            return await self._pool.run(work, *args, **kwargs)
        except lock.InUse:
            raise InUse from None
        except maildir.Gone:
            raise Gone from None
        except Busy:
            raise Unavailable from None
        except OSError as error:
            self._report(error)
            raise Unavailable from None

    def _report(self, error: OSError) -> None:
        reason = errno.errorcode.get(error.errno or 0, "unknown")
        maillog.event("maildrop-trouble", mailbox=self._maildir.label, reason=reason)

    # -- in the pool's threads --

    def _load(self) -> None:
        try:
            self._lock.acquire()
        except FileNotFoundError:
            if self._maildir.exists():
                raise
            return  # nothing was ever delivered
        try:
            self._number()
        finally:
            if self._closed:  # the session ended meanwhile and found no lock to release
                self._lock.release()

    def _number(self) -> None:
        messages = self._maildir.snapshot()
        sizes: Sequence[int] | None = messages.wire_sizes()
        if sizes is None:
            found = list(map(self._size, messages))
            messages = messages.only([size is not None for size in found])
            sizes = array("Q", [size for size in found if size is not None])
        self._messages, self.sizes = messages, sizes
        if messages:
            self._ids = self._unique_ids()

    def _unique_ids(self) -> Sequence[str] | None:
        """Asked for by most clients, and a trip of its own costs more; None keeps nobody from his mail."""
        try:
            return unique_ids(self._maildir, self._messages.uniques)
        except OSError as error:
            self._report(error)
            return None

    def _size(self, message: Message) -> int | None:
        """None for what cannot be served: gone already, no regular file, not ours to read."""
        try:
            return self._maildir.wire_size(message)
        except maildir.Gone:
            return None
        except OSError as error:
            if error.errno not in _THIS_ONE:
                raise
            self._report(error)
            return None

    def _read_from(self, number: int, further: int) -> tuple[Answer, dict[int, Answer]]:
        """One message, and of up to `further` ones after it those that are small and can be read."""
        sizes = self.sizes[number - 1 : number + further]
        few = sizes[: bisect_right(list(accumulate(sizes)), SMALL)]
        small = self._maildir.read_small(
            (self._messages[at], size) for at, size in enumerate(few, number - 1)
        )
        whole = {
            at: answer.content(_OCTETS % size, form + _END)
            for at, (size, form) in enumerate(zip(few, small, strict=False), number)
        }
        first = whole.pop(number) if whole else _begin(_OCTETS % sizes[0], self._wire(number))
        return first, whole

    def _wire(self, number: int) -> Iterator[bytes]:
        """The whole message; the size of a small one is that of its only block."""
        block = min(max(self.sizes[number - 1] + 1, SMALLEST_BLOCK), wire.BLOCK)
        with closing(self._blocks(number, block)) as blocks:
            yield from blocks
        yield _END

    def _read_top(self, number: int, lines: int) -> Answer:
        return _begin(b"Top of message follows", self._wire_top(number, lines))

    def _wire_top(self, number: int, lines: int) -> Iterator[bytes]:
        with closing(self._blocks(number, TOP_BLOCK)) as blocks:
            yield from top(blocks, lines)
        yield _END

    def _blocks(self, number: int, size: int) -> Generator[bytes, None, None]:
        fd = self._maildir.open(self._messages[number - 1])
        try:
            yield from wire.blocks(partial(os.read, fd), dot_stuffed=True, size=size)
        finally:
            os.close(fd)

    def _move_to_trash(self, numbers: Collection[int]) -> Removal:
        try:
            return self._discard([self._messages[number - 1] for number in numbers])
        finally:
            self._updating = False
            if self._closed:
                self._lock.release()

    def _discard(self, messages: list[Message]) -> Removal:
        trash = Trash(self._maildir)
        errors = trash.discard(*messages)
        if errors:
            self._report(errors[0])
        trash.sync()
        return Removal(len(errors), any(error.errno in _PERMANENT for error in errors))


def _begin(text: bytes, blocks: Iterator[bytes]) -> Answer:
    """Read what is small as a whole; of the rest, only the beginning."""
    parts, size = [], 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size > SMALL:
            return answer.content(text, b"".join(parts), blocks)
    return answer.content(text, b"".join(parts))
