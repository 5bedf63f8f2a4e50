"""Listeners: accept connections at an endpoint, and hand each to a protocol made for its peer.

Accepting is done here and not by the loop's servers, so that a connection can be refused before anything
is built for it: limits in all and per address, shared by the listeners of a gate. A peer listed as a proxy
must say first for whom it speaks (`proxy`); nobody else is believed. Not here: what is spoken.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from mailserver import maillog
from mailserver.transport import proxy
from mailserver.transport.endpoint import Endpoint, bind
from mailserver.transport.gate import Gate, Limits, account_source, source_of
from mailserver.transport.tls import Certificates

__all__ = ["Gate", "Limits", "Listener", "Network", "Peer", "reason_of"]

BURST = 64  # connections accepted before other sessions have their turn, at most
CROWD = 16  # connections for each one that is accepted together with another
DEFER = 0.005  # seconds for which a process with other work leaves a connection to those without
RETRY = 0.25  # seconds without accepting after descriptors or memory ran out

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_NO_CONNECTION = {  # accept(2): errors of the one connection that was about to come
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
}


class Peer(NamedTuple):
    """Who is at the other end: `address` is an IP address in text form, or 'unix'."""

    address: str
    port: int
    uid: int | None  # of the process, on a UNIX socket
    secure: bool  # TLS from the first octet
    descriptor: int | None = None  # of the connection, while it lasts

    @property
    def is_local(self) -> bool:
        """On this machine: loopback or a UNIX socket."""
        return self.address == "unix" or self.address == "::1" or self.address.startswith("127.")

    @property
    def is_owner(self) -> bool:
        """On a UNIX socket, and root or the account that we are."""
        return self.uid is not None and self.uid in (0, os.geteuid())


class _Connection(socket.socket):
    """An accepted socket, which gives its place back when it is closed, by whatever transport owns it.

    asyncio's transports call close() in the end, uvloop's detach(); so the count is that of descriptors in
    use, without a wrapper around protocols or transports.
    """

    __slots__ = ("gate", "listener", "source")
    # as numbers: the enumerations of `socket` are looked up anew each time
    family = _socket.socket.family  # type: ignore[assignment]
    type = _socket.socket.type  # type: ignore[assignment]
    listener: Listener | None  # None: it has no place
    gate: Gate
    source: str | bytes

    def close(self) -> None:
        self._leave()
        super().close()

    def detach(self) -> int:
        self._leave()
        return _socket.socket.detach(self)

    def _leave(self) -> None:
        if self.listener is not None:
            self.gate.leave(self.source)
            self.listener.connections -= 1
            self.listener = None


class Listener:
    """Connections at one endpoint. `open()` binds and needs no loop; `start()` begins to accept.

    `factory(peer)` makes the protocol of a connection; `certificates` are needed where the endpoint has TLS;
    `refusal` is what a client over the limits is told, where it can be told in clear. `defers`, which may be
    set, tells whether other processes that accept here should have the first chance now. `owners`, if given,
    is the gate of root and our own account on a UNIX socket, so that nobody shuts them out; others count
    there by their account.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        factory: Callable[[Peer], asyncio.BaseProtocol],
        *,
        gate: Gate,
        certificates: Certificates | None = None,
        proxy_from: Sequence[Network] = (),
        refusal: bytes = b"",
        owners: Gate | None = None,
    ) -> None:
        if endpoint.tls and certificates is None:
            raise ValueError("an endpoint with TLS needs certificates")
        self.endpoint = endpoint
        self.gate = gate
        self._owners = owners
        self.connections = 0
        self.sockets: list[socket.socket] = []
        self._factory = factory
        self._certificates = certificates if endpoint.tls else None
        self._proxy_from = tuple(proxy_from)
        self._refusal = b"" if endpoint.tls else refusal
        self._made: tuple[int, int] | None = None  # device and inode of our socket file
        self.defers: Callable[[], bool] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepting = False
        self._later: asyncio.TimerHandle | None = None
        self._complained = False
        self._beginning: dict[socket.socket, asyncio.Future[Any]] = {}

    def open(self, inherited: Mapping[str, Sequence[int]] | None = None) -> None:
        """Bind (see `endpoint.bind`). Clients wait from here on. May block; raises EndpointError."""
        self.sockets = bind(self.endpoint, inherited)
        if self.endpoint.kind == "unix":
            status = os.lstat(self.endpoint.target)
            self._made = status.st_dev, status.st_ino

    def start(self) -> None:
        """Begin to accept, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self.resume()

    def pause(self) -> None:
        """Leave new connections waiting; sessions go on."""
        self._accepting = False
        self._stop_watching()

    def resume(self) -> None:
        """Accept again after pause()."""
        self._accepting = True
        self._watch()

    def take_over(self, other: Listener) -> None:
        """Go on at the endpoint of `other`, which may leave then: instead of open(), for other settings."""
        self.sockets = [sock.dup() for sock in other.sockets]
        for sock in self.sockets:
            sock.setblocking(False)
        self._made = other._made

    def leave(self) -> None:
        """Accept no more in this process: others go on at the endpoint. What was accepted goes on, too."""
        self.pause()
        for sock in self.sockets:
            sock.close()
        self.sockets = []

    async def settle(self) -> None:
        """Wait until every connection accepted so far has its session, or is gone."""
        await asyncio.gather(*self._beginning.values(), return_exceptions=True)

    def close(self) -> None:
        """Stop for good: leave(), connections that have no session yet are dropped, the socket file goes."""
        self.leave()
        for task in self._beginning.values():
            task.cancel()
        if self._made is not None:
            self._unlink()

    def _unlink(self) -> None:
        made, self._made = self._made, None
        with contextlib.suppress(OSError):  # gone already, or no longer ours to remove: next bind clears it
            status = os.lstat(self.endpoint.target)
            if (status.st_dev, status.st_ino) == made:
                os.unlink(self.endpoint.target)

    # ---- accepting

    def _watch(self) -> None:
        self._later = None
        if self._loop is not None and self._accepting:
            for sock in self.sockets:
                self._loop.add_reader(sock, self._accept, sock, int(sock.family))

    def _stop_watching(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._loop is not None:
            for sock in self.sockets:
                self._loop.remove_reader(sock)

    def _accept(self, listening: socket.socket, family: int) -> None:
        if self.defers is not None and self.defers():
            self._stop_watching()
            assert self._loop is not None
            self._later = self._loop.call_later(DEFER, self._take_rest)
        else:
            self._take(listening, family)

    def _take_rest(self) -> None:
        """Accept what nobody else wanted."""
        self._watch()
        for sock in self.sockets:
            self._take(sock, int(sock.family))

    def _take(self, listening: socket.socket, family: int) -> None:
        # where few are connected a second one seldom waits, and to hear that costs as much as to accept it
        for _ in range(min(BURST, 1 + self.connections // CROWD)):
            try:
                # accept() would make an object of it, and we another one
                fd, address = listening._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in _NO_CONNECTION:
                    continue
                self._starve(error)
                return
            self._admit(_Connection(family, socket.SOCK_STREAM, 0, fd), address, family)
        self._complained = False

    def _starve(self, error: OSError) -> None:
        """EMFILE and its like: the connection stays in the queue, so watching it would spin."""
        self._stop_watching()
        assert self._loop is not None
        self._later = self._loop.call_later(RETRY, self._watch)
        maillog.count("connection.accept-failed")
        if not self._complained:
            self._complained = True
            reason = errno.errorcode.get(error.errno or 0, "unknown")
            maillog.event("accept-failed", listener=self.endpoint, reason=reason)

    def _admit(self, sock: _Connection, address: Any, family: int) -> None:
        sock.listener = None
        try:
            peer = self._peer(sock, address, family)
        except OSError:  # it is gone already
            sock.close()
            return
        proxied = bool(self._proxy_from) and self._is_proxy(peer)
        # a proxy speaks for many: it takes a place in all, and its client's address counts once known
        if self._enter(sock, peer, "" if proxied else self._source(peer)):
            assert self._loop is not None
            if proxied or self._certificates is not None:
                self._beginning[sock] = self._loop.create_task(self._begin(sock, peer, proxied))
            else:
                self._open(sock, peer, self._loop.connect_accepted_socket(partial(self._factory, peer), sock))

    def _peer(self, sock: socket.socket, address: Any, family: int) -> Peer:
        secure = self._certificates is not None
        if family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return Peer("unix", 0, _CREDENTIALS.unpack(credentials)[1], secure, sock.fileno())
        host = address[0] if family == socket.AF_INET else _plain(address[0])
        return Peer(host, address[1], None, secure, sock.fileno())

    def _is_proxy(self, peer: Peer) -> bool:
        if peer.address == "unix":
            return False
        address = ipaddress.ip_address(peer.address)
        return any(address in network for network in self._proxy_from)

    def _source(self, peer: Peer) -> str | bytes:
        if self._owners is None or peer.uid is None:
            return source_of(peer.address)
        return "" if peer.is_owner else account_source(peer.uid)

    def _enter(self, sock: _Connection, peer: Peer, source: str | bytes) -> bool:
        gate = self.gate if self._owners is None or not peer.is_owner else self._owners
        limit = gate.enter(source)
        if limit is None:
            sock.gate, sock.source, sock.listener = gate, source, self
            self.connections += 1
            return True
        maillog.count("connection.refused")
        maillog.event("connection-refused", listener=self.endpoint, peer=peer.address, limit=limit)
        if self._refusal:
            with contextlib.suppress(OSError):
                sock.send(self._refusal, socket.MSG_DONTWAIT)
        sock.close()
        return False

    # ---- from an accepted socket to a session

    def _open(
        self,
        sock: _Connection,
        peer: Peer,
        opening: Coroutine[Any, None, object],
        _: object = None,
    ) -> None:
        """Go on with what waits for the loop alone, as a task would that costs a tenth of a connection."""
        try:
            waited: asyncio.Future[Any] = opening.send(None)
        except StopIteration:
            del self._beginning[sock]
        except (Exception, asyncio.CancelledError) as error:
            self._fail(sock, peer, error)
        else:
            self._beginning[sock] = waited
            waited.add_done_callback(partial(self._open, sock, peer, opening))

    async def _begin(self, sock: _Connection, peer: Peer, proxied: bool) -> None:
        assert self._loop is not None
        sock.setblocking(False)
        try:
            if proxied:
                async with asyncio.timeout(self.gate.limits.handshake_timeout):
                    peer = await self._behind_proxy(sock, peer)
                sock._leave()
                if not self._enter(sock, peer, self._source(peer)):
                    return
            await self._loop.connect_accepted_socket(partial(self._factory, peer), sock, **self._tls())
        except (Exception, asyncio.CancelledError) as error:
            self._fail(sock, peer, error)
        finally:
            self._beginning.pop(sock, None)

    def _fail(self, sock: _Connection, peer: Peer, error: BaseException) -> None:
        self._beginning.pop(sock, None)
        sock.close()
        if isinstance(error, asyncio.CancelledError):
            return  # the listener is closed
        maillog.count("connection.failed")
        maillog.event("connection-failed", listener=self.endpoint, peer=peer.address, reason=reason_of(error))

    def _tls(self) -> dict[str, Any]:
        if self._certificates is None:
            return {}
        context, timeout = self._certificates.context, self.gate.limits.handshake_timeout
        return {"ssl": context, "ssl_handshake_timeout": timeout}

    async def _behind_proxy(self, sock: socket.socket, peer: Peer) -> Peer:
        """The client the proxy names. Not one octet after the header is taken: it may be a ClientHello."""
        seen = b""
        while True:
            await self._readable(sock)
            fresh = sock.recv(proxy.MAX_V2, socket.MSG_PEEK)
            if not fresh:
                raise ConnectionResetError
            header = proxy.parse(seen + fresh)
            if header is not None:
                sock.recv(header.length - len(seen))
                break
            seen += sock.recv(len(fresh))  # all of it is header: taken, or the loop would spin on it
        if header.source is None:
            return peer
        address, port = header.source
        return peer._replace(address=_plain(address), port=port)

    async def _readable(self, sock: socket.socket) -> None:
        assert self._loop is not None
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock, _settle, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(sock)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _plain(address: str) -> str:
    """Without a zone, and an IPv4 client of a dual-stack socket (an inherited one) as the IPv4 it is."""
    address = address.partition("%")[0]
    if address.startswith("::ffff:") and "." in address:
        return address[7:]
    return address


def reason_of(error: BaseException) -> str:
    """A word for the log, never an exception's text."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS"
    return type(error).__name__
