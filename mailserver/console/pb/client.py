"""The other end of Perspective Broker, for `mailserver console`: coroutines, without a reactor.

What a server may send is bounded by an allow list, too: plain values, references to it, and errors.
Not here: the server's end (`console.broker`), what a person types (`cli.console`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.spread import pb

from mailserver.admin.refused import Refused
from mailserver.console.client import Broken
from mailserver.console.pb.values import Allowed
from mailserver.transport.connections import Connections
from mailserver.transport.endpoint import Endpoint
from mailserver.transport.listener import Peer
from mailserver.transport.twisted import Bounds, Hosted

CONNECT = 30.0  # seconds until there is a root to call
_FOREVER = Bounds(idle=10 * 365 * 86400.0, login=CONNECT, write=120.0)


class _Taken(Allowed):
    """What comes from a server."""

    TYPES = Allowed.TYPES | {
        *(b"None", b"boolean", b"unicode", b"list", b"tuple", b"dictionary", b"reference", b"dereference"),
        *(b"remote", b"twisted.spread.pb.CopyableFailure"),
    }


class _Observer(pb.Referenceable):
    """Takes what a stream calls."""

    def __init__(self) -> None:
        self.values: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def remote_event(self, value: object) -> None:
        self.values.put_nowait(("event", value))

    def remote_lost(self, count: int) -> None:
        self.values.put_nowait(("lost", count))

    def remote_ended(self, why: str) -> None:
        self.values.put_nowait(("ended", why))


class Remote:
    """A connection: `connect`, then `login` or `authenticate`, then the rest. All raise Refused, Broken."""

    def __init__(self) -> None:
        self._server: Any = None

    async def connect(self, at: Endpoint, tls: ssl.SSLContext | None) -> None:
        """Call a server at the endpoint, with `tls` where that has TLS."""
        try:
            async with asyncio.timeout(CONNECT):
                self._server = await self._root(at, tls)
        except TimeoutError:
            raise Broken(f"{at}: no answer") from None
        except Broken:
            raise Broken(f"{at}: the connection ended at once; is that a listener for pb?") from None
        except ssl.SSLCertVerificationError as error:
            raise Broken(f"{at}: the certificate cannot be trusted: {error.verify_message}") from None
        except socket.gaierror:
            raise Broken(f"{at}: no such host") from None
        except OSError as error:
            raise Broken(f"{at}: {os.strerror(error.errno) if error.errno else 'no connection'}") from None

    async def _root(self, at: Endpoint, tls: ssl.SSLContext | None) -> Any:
        factory: Any = pb.PBClientFactory(security=_Taken())
        hosted = Hosted(
            "pb", _Client(factory), Peer("server", 0, None, False), bounds=_FOREVER, connections=Connections()
        )
        loop = asyncio.get_running_loop()
        if at.kind == "unix":
            await loop.create_unix_connection(lambda: hosted, at.target)
        else:
            await loop.create_connection(lambda: hosted, at.target, at.port, ssl=tls)
        return await _future(factory.getRootObject())

    async def login(self) -> bool:
        """As the account of this process, over a UNIX socket; False if that is no operator."""
        try:
            self._server = await self.call("login")
        except Broken:
            raise
        except Refused:
            return False
        return True

    async def authenticate(self, name: str, password: str) -> None:
        self._server = await self.call("authenticate", name, password)

    async def call(self, method: str, *args: object) -> Any:
        """What a method of the perspective answers."""
        try:
            return await _future(self._server.callRemote(method, *args))
        except pb.DeadReferenceError:
            raise Broken("the server has closed the connection") from None

    async def watch(self, phrase: str, given: dict[str, object]) -> AsyncIterator[Any]:
        """The values of a stream that a phrase asks for, until it ends or the caller leaves off."""
        observer = _Observer()
        stream = await self.call("phrase", phrase, given, observer)
        try:
            while True:
                kind, value = await observer.values.get()
                if kind == "event":
                    yield value
                elif kind == "ended":
                    break
        finally:
            with contextlib.suppress(pb.DeadReferenceError):
                stream.callRemote("stop", pbanswer=False)
        if value:
            raise Refused(str(value))


class _Client(Factory):
    """Tells the protocol's own factory of the connection, and of its end."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def buildProtocol(self, addr: object) -> Any:
        broker = self._factory.buildProtocol(addr)
        broker.notifyOnConnect(lambda: broker.transport.admit(""))
        broker.notifyOnDisconnect(lambda: self._factory.clientConnectionLost(None, Failure(_lost())))
        return broker


def _future(deferred: Any) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(result: Any) -> None:
        if future.done():
            return
        if isinstance(result, Failure):
            future.set_exception(_error(result))
        else:
            future.set_result(result)

    deferred.addBoth(settle)
    return future


def _error(failure: Failure) -> Exception:
    if isinstance(failure, pb.CopiedFailure):
        return Refused(str(failure.value)[:1000])
    return _lost()


def _lost() -> Broken:
    return Broken("the server has closed the connection")
