"""The transport that a Twisted protocol gets: Twisted's names and promises on an asyncio transport.

Everything a client can stretch is bounded: the time until it has said who it is, the time it is silent, the
output it does not take. Not here: how a protocol is built, and gets its input (`twisted`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from zope.interface import implementer

from mailserver import maillog
from mailserver.transport.backlog import Backlog
from mailserver.transport.listener import Peer

Address: TypeAlias = IPv4Address | IPv6Address | UNIXAddress


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds until the client is admitted, without an octet either way once it is, and with output it does
    not take; octets of output held for it then, and before; and what is held for all."""

    idle: float
    login: float = 30.0
    write: float = 60.0
    output: int = 1024 * 1024
    early_output: int = 64 * 1024
    backlog: Backlog = field(default_factory=Backlog)


class Producer(Protocol):
    """Twisted's IPushProducer; of an IPullProducer, which is asked for each piece, only the last two."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...


@implementer(ITransport, IConsumer, IPushProducer)
class Transport:
    """What the Twisted protocol has for a transport; `peer` is who is at the other end.

    As a producer it is the client: an application pauses it while it wants no more input.
    """

    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle
    _active: float  # when an octet went either way, or the connection began

    def __init__(self, peer: Peer, bounds: Bounds) -> None:
        self.peer = peer
        self.disconnecting = False
        self.over_tls = False
        self.user = ""  # the operator's name, once admitted
        self._bounds = bounds
        self._admitted = False
        self._limit = bounds.early_output
        self._reading = True
        self.held = False  # as the client does not take what was written
        self._stalled: asyncio.TimerHandle | None = None
        self._left = 0  # octets it had not taken when we last looked
        self._resumed: asyncio.Event = asyncio.Event()
        self._producer: Producer | None = None
        self._streaming = False

    # ---- the host's side

    def begin(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self.over_tls = transport.get_extra_info("ssl_object") is not None
        self._resumed.set()
        self._active = self._loop.time()
        self._timer = self._loop.call_later(self._bounds.login, self._tick)

    def active(self) -> None:
        """An octet went by."""
        self._active = self._loop.time()

    def hold(self) -> None:
        """The client is behind: whoever produces output waits, for as long as a client may stall."""
        self.held = True
        self._bounds.backlog.add(self)
        self._resumed.clear()
        self._unwatch_stall()
        self._watch_stall()
        if self._producer is not None and self._streaming:
            self._producer.pauseProducing()

    def go_on(self) -> None:
        """The client has taken what it had to, unless it is behind again."""
        if self.held:
            return
        self._bounds.backlog.discard(self)
        self._resumed.set()
        self._unwatch_stall()
        if self._producer is not None and self._streaming:
            self._producer.resumeProducing()
        else:
            self._pull()

    def end(self) -> None:
        """The connection is gone."""
        self.disconnecting = True
        self._timer.cancel()
        self._bounds.backlog.discard(self)
        self._unwatch_stall()
        self._resumed.set()
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.stopProducing()

    def fail(self, error: Exception) -> None:
        """The protocol, or its producer, raised the unforeseen."""
        maillog.count("session.failed")
        maillog.fault("session-failed", error, peer=self.peer.address)
        self.abortConnection()

    # ---- ITransport

    def write(self, data: bytes) -> None:
        """Send; a client that leaves more than the bounds' octets unread is cut."""
        if self.disconnecting or self._transport.is_closing():
            return
        self.active()
        self._transport.write(data)
        if self.left > self._limit:
            self.cut()
        elif self.held:
            self._bounds.backlog.check()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close when all is sent, or when the client has not taken it in time."""
        if not self.disconnecting:
            self.disconnecting = True
            self._timer.cancel()
            self._timer = self._loop.call_later(self._bounds.write, self._transport.abort)
            self._transport.close()

    def abortConnection(self) -> None:
        self.disconnecting = True
        self._transport.abort()

    def getPeer(self) -> Address:
        return _address(self.peer.address, self.peer.port)

    def getHost(self) -> Address:
        name = self._transport.get_extra_info("sockname")
        return _address(name[0], name[1]) if isinstance(name, tuple) else UNIXAddress(None)

    # ---- beyond it: who is admitted, and waiting for a client to read

    def admit(self, user: str, output: int | None = None) -> None:
        """The client is this operator: from now on it may stay for as long as it is not idle, and have
        `output` octets held for it, if that is another number than that of the bounds."""
        self._admitted = True
        self._limit = self._bounds.output if output is None else output
        self.user = user
        self.active()
        self._timer.cancel()
        if not self.disconnecting:
            self._timer = self._loop.call_later(self._bounds.idle, self._tick)

    @property
    def left(self) -> int:
        """Octets the client has not taken."""
        return self._transport.get_write_buffer_size()

    def cut(self) -> None:
        """End it, for it takes nothing."""
        maillog.event("client-stalled", peer=self.peer.address)
        self.abortConnection()

    async def taken(self) -> None:
        """Wait until the client has taken most of what was written, or is gone."""
        await self._resumed.wait()

    # ---- IConsumer

    def registerProducer(self, producer: Producer, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        if self.disconnecting:
            producer.stopProducing()
            return
        self._producer, self._streaming = producer, streaming
        if not streaming:
            self._loop.call_soon(self._pull)
        elif self.held:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    # ---- IPushProducer

    def pauseProducing(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resumeProducing(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def stopProducing(self) -> None:
        self.loseConnection()

    # ---- inside

    def _pull(self) -> None:
        """Ask a producer that waits to be asked for its next piece, and come again."""
        if self._producer is None or self._streaming or self.held or self.disconnecting:
            return
        try:
            self._producer.resumeProducing()
        except Exception as error:
            self.fail(error)
            return
        self._loop.call_soon(self._pull)

    def _tick(self) -> None:
        """One timer, set anew only when it fires: an octet costs no more than a glance at the clock."""
        until = self._active + self._bounds.idle if self._admitted else 0.0
        if self._loop.time() < until:
            self._timer = self._loop.call_at(until, self._tick)
            return
        maillog.event("session-timed-out", peer=self.peer.address)
        self.loseConnection()

    def _watch_stall(self) -> None:
        self._left = self.left
        self._stalled = self._loop.call_later(self._bounds.write, self._check_stall)

    def _unwatch_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _check_stall(self) -> None:
        if self.left >= self._left:
            self.cut()
        else:
            self._watch_stall()


def _address(host: str, port: int) -> Address:
    if host == "unix":
        return UNIXAddress(None)
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)
