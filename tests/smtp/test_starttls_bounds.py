"""What a client cannot stretch or mix up where the connection goes over to TLS, on sockets and the server's loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from office import Office

from mailserver.server.loop import new_loop
from mailserver.smtp.conversation import READ_AHEAD, UNREAD
from mailserver.smtp.server import Session
from mailserver.transport.tls import Certificates, make_self_signed

OK = b"250 2.0.0 OK\r\n"
LIMIT = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("tls")
    make_self_signed(str(directory), ["mx.example.test"])
    loaded = Certificates(str(directory), "mx.example.test")
    assert loaded.reload() == []
    return loaded


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


class Client:
    """Speaks TLS by hand, so that one segment can hold the end of the handshake and what follows it."""

    def __init__(self, sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def hear(self, end: bytes) -> bytes:
        """In clear, all up to what ends so."""
        heard = b""
        while not heard.endswith(end):
            heard += (fresh := await self._loop.sock_recv(self._sock, 65536))
            assert fresh, heard[-200:]
        return heard

    async def begin_tls(self) -> None:
        """The handshake; its last octets go with what is said first."""
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self.send(self._outgoing.read())
                self._incoming.write(await self._loop.sock_recv(self._sock, 65536))

    async def say(self, text: bytes) -> None:
        for start in range(0, len(text), 16384):
            self._tls.write(text[start : start + 16384])
        await self.send(self._outgoing.read())

    async def listen(self, size: int) -> bytes:
        """So many octets of what was encrypted."""
        heard = b""
        while len(heard) < size:
            try:
                heard += self._tls.read(size - len(heard))
            except ssl.SSLWantReadError:
                self._incoming.write(await self._loop.sock_recv(self._sock, 65536))
        return heard


@contextlib.asynccontextmanager
async def connected(
    office: Office, certificates: Certificates, *, tls: bool = False
) -> AsyncIterator[tuple[Session, Client]]:
    near, far = socket.socketpair()
    far.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    session = office.session(secure=tls)
    session.site = dataclasses.replace(session.site, tls=lambda: certificates.context)
    client = Client(far)
    loop = asyncio.get_running_loop()
    context = certificates.context if tls else None
    accepted = asyncio.ensure_future(loop.connect_accepted_socket(lambda: session, near, ssl=context))
    try:
        if tls:
            await client.begin_tls()
            await client.say(b"")
        await accepted
        yield session, client
    finally:
        far.close()
        async with asyncio.timeout(LIMIT):
            await office.connections.wait_empty()


Talk = Callable[[], Awaitable[None]]


@pytest.fixture(params=[new_loop, asyncio.new_event_loop], ids=["server's", "asyncio's"])
def run(request: pytest.FixtureRequest) -> Callable[[Talk], None]:
    """The two loops differ in what comes first after a handshake: what the client says, or that it is done."""

    async def bounded(talk: Talk) -> None:
        async with asyncio.timeout(LIMIT):
            await talk()

    def run(talk: Talk) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded(talk))

    return run


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_unread_replies_are_bounded(
    office: Office, certificates: Certificates, run: Callable[[Talk], None], tls: bool
) -> None:
    async def talk() -> None:
        async with connected(office, certificates, tls=tls) as (session, client):
            saying = asyncio.create_task((client.say if tls else client.send)(b"HELP\r\n" * 100_000))
            while not session._paused:
                await asyncio.sleep(0)
            assert session._transport.get_write_buffer_size() < 2 * UNREAD
            saying.cancel()

    run(talk)


def test_much_right_behind_the_handshake(
    office: Office, certificates: Certificates, run: Callable[[Talk], None]
) -> None:
    """It comes before the session knows of its new transport, and must not stop the old one for ever."""

    async def talk() -> None:
        async with connected(office, certificates) as (_, client):
            await client.send(b"STARTTLS\r\n")
            await client.hear(b"Ready to start TLS\r\n")
            noops = 6 * READ_AHEAD // 6
            await client.begin_tls()
            saying = asyncio.create_task(client.say(b"NOOP\r\n" * noops))
            assert await client.listen(noops * len(OK)) == OK * noops
            await saying

    run(talk)


def test_starttls_behind_replies_that_were_not_read(
    office: Office, certificates: Certificates, run: Callable[[Talk], None]
) -> None:
    """The old transport has to be emptied first: it would tell the wrong one that it was."""

    async def talk() -> None:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with connected(office, certificates) as (session, client):
            while not session._transport.get_write_buffer_size():
                await client.send(b"HELP\r\n")
                await asyncio.sleep(0)
            session._transport.set_write_buffer_limits(high=session._transport.get_write_buffer_size() + 1)
            await client.send(b"STARTTLS\r\n")
            while not session._paused:
                await asyncio.sleep(0)
            await client.hear(b"Ready to start TLS\r\n")
            await client.begin_tls()
            await client.say(b"NOOP\r\n")
            assert await client.listen(len(OK)) == OK
            assert faults == []

    run(talk)


def test_a_session_that_ends_while_tls_begins_is_gone(
    office: Office, certificates: Certificates, run: Callable[[Talk], None]
) -> None:
    """The transport's end is no error of the handshake, and nobody else is told of it."""

    async def talk() -> None:
        async with connected(office, certificates) as (session, client):
            await client.send(b"STARTTLS\r\n")
            await client.hear(b"Ready to start TLS\r\n")
            session.drain()

    run(talk)
