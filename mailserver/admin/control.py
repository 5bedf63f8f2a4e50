"""The socket of the queue, by which other processes of this machine speak with it: a JSON line each way.

Only root and the user that the server runs as reach it: it lies in a directory of that user's alone.
Not here: what requests mean (`requests`), binding the socket (`transport.listener`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import msgspec

from mailserver.admin.requests import Answer, Desk, Request, perform
from mailserver.pool import Pool
from mailserver.transport import session as transport
from mailserver.transport.driver import Connections, Driver, Timeouts
from mailserver.transport.listener import Peer
from mailserver.transport.session import Then

LINE = 16 * 1024  # octets of a request
PATIENCE = 60.0  # seconds that whoever asks waits for an answer
Obey = Callable[[bytes], Awaitable[bytes]]
"""A line with a request to the line of its answer. Raises msgspec.DecodeError, Busy."""
_TIMEOUTS = Timeouts(idle=60.0, total=3600.0)


def path_of(maildirs: str) -> str:
    """Where the socket of the server on these mailboxes is."""
    return os.path.join(maildirs, ".run", "queue.sock")


class ControlSession:
    """A conversation of requests and answers (`transport.session.LineSession`)."""

    protocol = "queue"
    user = ""

    def __init__(self, obey: Obey) -> None:
        self._obey = obey

    def greeting(self) -> bytes:
        return b""

    async def receive(self, line: bytes) -> transport.Answer:
        try:
            return transport.Answer(await self._obey(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _last("expected a request in JSON")

    def too_long(self) -> transport.Answer:
        return _last("the request is too long")

    def busy(self) -> transport.Answer:
        return transport.Answer(_encoded(Answer(refused="the server is too busy, try again")))

    def failure(self) -> transport.Answer:
        return _last("the server could not do it; its log says why")

    def timed_out(self) -> bytes:
        return b""

    def tls_started(self) -> None:
        return None

    def lost(self) -> None:
        return None


def control(desk: Desk, pool: Pool, connections: Connections) -> Callable[[Peer], Driver]:
    """What makes the protocol of a connection to the queue's socket."""
    return answering(obeying(desk), pool, connections)


def obeying(desk: Desk) -> Obey:
    """Carries out lines with requests."""

    async def obey(line: bytes) -> bytes:
        return _encoded(await perform(desk, _request.decode(line)))

    return obey


def answering(obey: Obey, pool: Pool, connections: Connections) -> Callable[[Peer], Driver]:
    """What makes the protocol of connections on which each line is a request for `obey`."""
    return lambda peer: Driver(
        ControlSession(obey),
        peer,
        pool=pool,
        timeouts=_TIMEOUTS,
        line_limit=LINE,
        tls=None,
        connections=connections,
    )


def _last(problem: str) -> transport.Answer:
    return transport.Answer(_encoded(Answer(refused=problem)), Then.CLOSE)


def _encoded(answer: Answer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


_request = msgspec.json.Decoder(Request)
