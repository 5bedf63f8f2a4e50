"""Hosts a Twisted protocol on an asyncio transport: no reactor is run, nor imported.

Not here: the transport the protocol gets (`twisted_transport`), what is spoken (`console`). Of Twisted's
modules, `conch.recvline` and `conch.manhole` import the reactor: use neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ITransport
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import LogEvent, globalLogBeginner
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.transport.connections import About, Connections
from mailserver.transport.listener import Peer
from mailserver.transport.twisted_transport import Bounds, Transport

__all__ = ["Bounds", "Hosted", "Transport", "deferred"]

INPUT = 16 * 1024  # octets taken at once: Twisted's protocols look at each, and others wait meanwhile

T = TypeVar("T")


def deferred(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Begin a coroutine on the running loop; the Deferred has its result, and cancels it when cancelled."""
    return Deferred.fromFuture(asyncio.get_running_loop().create_task(work))


class Hosted(asyncio.BufferedProtocol):
    """One connection: the protocol that `factory` builds, on the transport that asyncio brings.

    `name` is the protocol's in the configuration.
    """

    def __init__(
        self, name: str, factory: Factory, peer: Peer, *, bounds: Bounds, connections: Connections
    ) -> None:
        _listen_to_twisted()
        self._name = name
        self._factory: Any = factory
        self._connections = connections
        self._protocol: TwistedProtocol | None = None
        self._transport = Transport(peer, bounds)
        self._input = memoryview(bytearray(INPUT))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport.begin(cast(asyncio.Transport, transport))
        self._connections.add(self)
        self._guard(self._build)

    def _build(self) -> None:
        self._protocol = self._factory.buildProtocol(self._transport.getPeer())
        if self._protocol is None:
            self._transport.abortConnection()
        else:
            self._protocol.makeConnection(cast(ITransport, self._transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._input

    def buffer_updated(self, nbytes: int) -> None:
        if self._protocol is not None and not self._transport.disconnecting:
            self._transport.active()
            self._guard(self._protocol.dataReceived, bytes(self._input[:nbytes]))

    def eof_received(self) -> bool:
        """A protocol that knows of half-closed connections may still answer what was said (`nc -N`)."""
        if not IHalfCloseableProtocol.providedBy(self._protocol) or self._transport.over_tls:
            return False  # TLS has no half-close
        self._guard(cast(Any, self._protocol).readConnectionLost)
        return True

    def pause_writing(self) -> None:
        self._guard(self._transport.hold)

    def resume_writing(self) -> None:
        """Later: asyncio calls its transport closed twice if it is closed in here."""
        self._transport.held = False
        asyncio.get_running_loop().call_soon(self._guard, self._transport.go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._guard(self._transport.end)
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            reason = Failure(ConnectionDone() if exc is None else ConnectionLost())
            self._guard(protocol.connectionLost, reason)

    def about(self) -> About:
        transport = self._transport
        return About(self._name, transport.peer.address, transport.user, transport.over_tls)

    def drain(self) -> None:
        """Close, once what was written is sent."""
        self._transport.loseConnection()

    def abort(self) -> None:
        """End now."""
        self._transport.abortConnection()

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call Twisted's side. What goes wrong there ends the connection, and reaches nobody else."""
        try:
            call(*arguments)
        except Exception as error:
            self._transport.fail(error)


_listening = False


def _listen_to_twisted() -> None:
    """Twisted's own log ends here: what it says of failures is logged as everybody's, the rest dropped."""
    global _listening
    if not _listening:
        _listening = True
        globalLogBeginner.beginLoggingTo([cast(Any, _observe)], discardBuffer=True, redirectStandardIO=False)


def _observe(event: LogEvent) -> None:
    failure = event.get("log_failure")
    if failure is not None:
        maillog.count("session.failed")
        maillog.fault("session-failed", failure.value)
