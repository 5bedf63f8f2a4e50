"""What the driver asks of a line session, and what it gets: the contract between the two.

Not here: either side of it.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Iterator
from typing import NamedTuple, Protocol


class Then(enum.Enum):
    """What comes after an answer."""

    CONTINUE = enum.auto()
    CLOSE = enum.auto()
    START_TLS = enum.auto()


class Answer(NamedTuple):
    """What to send: `data`, then the blocks of `stream`, then what `then` says.

    The stream is iterated in a pool's thread. Its first blocks are taken before `data` is sent, so trouble at
    the start is answered (busy(), failure()) in place of `data`; later trouble cuts the connection. Its
    `close()`, if it has one, is called when it is done with, also when the client has left.
    """

    data: bytes = b""
    then: Then = Then.CONTINUE
    stream: Iterator[bytes] | None = None


class LineSession(Protocol):
    """A conversation in lines."""

    @property
    def protocol(self) -> str:
        """Its name, as in the configuration."""

    @property
    def user(self) -> str:
        """Who has logged in, for operators; '' as long as nobody has."""

    def greeting(self) -> bytes:
        """What the server says first."""

    def receive(self, line: bytes) -> Answer | Awaitable[Answer]:
        """Answer a line, which comes without its CRLF: at once, or where something is waited for, later.

        A pool's Busy may pass through. An answer at once costs no task.
        """

    def too_long(self) -> Answer:
        """Answer a line over the limit; its octets are dropped."""

    def busy(self) -> Answer:
        """Answer a line that a full pool kept us from working on."""

    def failure(self) -> Answer:
        """Answer a line that raised the unforeseen; the connection is closed after it."""

    def timed_out(self) -> bytes:
        """Last words to a client that was silent, or present, for too long, and when the server stops."""

    def tls_started(self) -> None:
        """TLS was negotiated: forget what was said before."""

    def lost(self) -> None:
        """The connection ended, however it did; called exactly once, with no receive() under way."""
