"""The TRANSACTION and UPDATE states of a session: one open maildrop and what is marked for removal.

Numbers, sizes and ids are those of the maildrop at login and never shift (RFC 1939 §5); nothing is
removed before QUIT (§6). Also the port to the maildrop, which `pop3.maildrop` implements on a mailbox.
Not here: lines and their grammar (`pop3.session`), files (`pop3.maildrop`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from mailserver.pop3 import answer
from mailserver.transport.driver import Answer, Then

_MARKED = answer.ok("Message marked")


class InUse(Exception):
    """Another session has the maildrop open."""


class Gone(Exception):
    """The message was removed by another program since login."""


class Unavailable(Exception):
    """Trouble of ours that passes: a full pool, a disk error. The cause has been logged."""


class Removal(NamedTuple):
    """How QUIT went: messages that could not be removed, and whether somebody must repair something."""

    failed: int = 0
    permanent: bool = False


class Maildrop(Protocol):
    """A locked, numbered snapshot of a mailbox. Messages count from 1, and come as `answer.content`."""

    @property
    def sizes(self) -> Sequence[int]:
        """Octets of each message on the wire, without stuffed dots; that of number n stands at n - 1."""

    def unique_ids(self) -> Sequence[str]:
        """The UIDL of each message (RFC 1939 §7). Raises Unavailable."""

    def at_hand(self, number: int) -> Answer | None:
        """A whole message, if it has been read already."""

    async def retrieve(self, number: int) -> Answer:
        """A whole message. Raises Gone, Unavailable."""

    async def top(self, number: int, lines: int) -> Answer:
        """Header, empty line and `lines` lines of the body. Raises Gone, Unavailable."""

    async def discard(self, numbers: Collection[int]) -> Removal:
        """Move messages to the trash; one already gone counts as removed. Raises Unavailable: none was."""

    def close(self) -> None:
        """Release the lock; never blocks, and may be called again."""


class Transaction:
    """What a logged-in session may do. `retention`: seconds that removed messages are kept in Trash."""

    def __init__(self, maildrop: Maildrop, retention: float) -> None:
        self.retrieved = 0
        self.octets = 0
        self.deleted = 0
        self._maildrop = maildrop
        self._retention = retention
        self._sizes = maildrop.sizes
        self._marked: set[int] = set()
        self._all = self._left = sum(self._sizes)  # octets

    def totals(self) -> dict[str, int]:
        """What was done so far, for the log."""
        return {"retrieved": self.retrieved, "octets": self.octets, "deleted": self.deleted}

    def summary(self) -> str:
        count = len(self._sizes) - len(self._marked)
        return f"{answer.plural(count, 'message')} ({self._left} octets)"

    def stat(self) -> Answer:
        return answer.ok(f"{len(self._sizes) - len(self._marked)} {self._left}")

    def list(self, number: bytes | None) -> Answer:
        if number is None:
            return answer.numbered(self.summary(), self._unmarked(self._sizes), len(self._sizes))
        n = self._number(number)
        return answer.ok(f"{n} {self._sizes[n - 1]}") if n else self._no_such(number)

    def uidl(self, number: bytes | None) -> Answer:
        if number is None:
            ids = self._maildrop.unique_ids()
            return answer.numbered("Unique ids follow", self._unmarked(ids), len(ids))
        n = self._number(number)
        return answer.ok(f"{n} {self._maildrop.unique_ids()[n - 1]}") if n else self._no_such(number)

    def retr(self, number: bytes) -> Answer | Awaitable[Answer]:
        if not (n := self._number(number)):
            return self._no_such(number)
        message = self._maildrop.at_hand(n)
        if message is None:
            return self._retrieve(n)
        self._count(n)
        return message

    async def _retrieve(self, n: int) -> Answer:
        try:
            message = await self._maildrop.retrieve(n)
        except Gone:
            return answer.err("The message is gone, removed by another program")
        self._count(n)
        return message

    def _count(self, n: int) -> None:
        self.retrieved += 1
        self.octets += self._sizes[n - 1]

    async def top(self, number: bytes, lines: bytes) -> Answer:
        if not (n := self._number(number)):
            return self._no_such(number)
        try:
            return await self._maildrop.top(n, int(lines))
        except Gone:
            return answer.err("The message is gone, removed by another program")

    def dele(self, number: bytes) -> Answer:
        if not (n := self._number(number)):
            return self._no_such(number)
        self._marked.add(n)
        self._left -= self._sizes[n - 1]
        return _MARKED

    def rset(self) -> Answer:
        self._marked.clear()
        self._left = self._all
        return answer.ok(f"Nothing marked, {self.summary()}")

    def quit(self) -> Answer | Awaitable[Answer]:
        """UPDATE: remove what is marked, release the lock, and only then answer (RFC 1939 §6)."""
        if self._marked:
            return self._update()
        self._maildrop.close()
        return answer.NOTHING_DELETED

    async def _update(self) -> Answer:
        wanted = len(self._marked)
        try:
            removal = await self._maildrop.discard(sorted(self._marked))
        except Unavailable:
            removal = Removal(failed=wanted)
        finally:
            self._maildrop.close()
        self.deleted = wanted - removal.failed
        if removal.failed:
            code = answer.SYS_PERM if removal.permanent else answer.SYS_TEMP
            return answer.err(f"{removal.failed} of {wanted} marked messages not removed", code, Then.CLOSE)
        return answer.ok(self._farewell(), Then.CLOSE)

    def close(self) -> None:
        """The session ended, however: marks are forgotten, the lock is released (RFC 1939 §6)."""
        self._maildrop.close()

    def _farewell(self) -> str:
        days, hours = int(self._retention // 86400), int(self._retention // 3600)
        kept = answer.plural(days, "day") if days else answer.plural(hours, "hour")
        return f"{answer.plural(self.deleted, 'message')} deleted, kept in Trash for {kept}"

    def _unmarked(self, values: Iterable[object]) -> Iterator[tuple[int, object]]:
        """What belongs to each message that is not marked, with the message's number."""
        numbered = enumerate(values, 1)
        return (pair for pair in numbered if pair[0] not in self._marked) if self._marked else numbered

    def _number(self, text: bytes) -> int:
        """The number of a message that exists and is not marked; 0 for any other."""
        n = int(text)
        return n if 1 <= n <= len(self._sizes) and n not in self._marked else 0

    def _no_such(self, text: bytes) -> Answer:
        if int(text) in self._marked:
            return answer.err(f"Message {int(text)} is deleted")
        return answer.err(f"No such message, the maildrop has {len(self._sizes)}")
