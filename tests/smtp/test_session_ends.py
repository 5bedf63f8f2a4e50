"""How long a session may last: silence, its whole time, a message under way, a client that reads nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from conversation import Memory
from office import Office

from mailserver.smtp.server import Session, Timeouts

ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


@contextlib.asynccontextmanager
async def connected(
    office: Office, timeouts: Timeouts
) -> AsyncIterator[tuple[Session, asyncio.StreamReader, asyncio.StreamWriter]]:
    ours, its = socket.socketpair()
    session = office.session(timeouts=timeouts)
    its.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: session, its)
    reader, writer = await asyncio.open_connection(sock=ours, limit=1024)
    try:
        yield session, reader, writer
    finally:
        writer.close()
        await office.connections.wait_empty()


def run(talk: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await talk()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_silence(office: Office) -> None:
    async def talk() -> None:
        async with connected(office, Timeouts(idle=0.05)) as (_, reader, _writer):
            heard = await reader.read(-1)
        assert [line[:9] for line in heard.splitlines()] == [b"220 mx.ex", b"421 4.4.2"]

    run(talk)


def test_who_says_something_is_not_silent(office: Office) -> None:
    """The timer was set for the first silence, and looks when it rings."""

    async def talk() -> None:
        async with connected(office, Timeouts(idle=0.2)) as (session, reader, writer):
            first = session._timeout_handle
            await reader.readline()
            while session._timeout_handle is first:
                writer.write(b"NOOP\r\n")
                assert (await reader.readline()).startswith(b"250 ")
                await asyncio.sleep(0.001)
            assert (await reader.read(-1)).startswith(b"421 4.4.2 Timeout")

    run(talk)


def test_whoever_stays_too_long(office: Office) -> None:
    async def talk() -> None:
        async with connected(office, Timeouts(idle=10, session=0.1)) as (_, reader, writer):
            await reader.readline()
            reply = b"250 "
            while reply.startswith(b"250 "):
                writer.write(b"NOOP\r\n")
                reply = await reader.readline()
            assert reply.startswith(b"421 4.4.2 Session has lasted too long")

    run(talk)


def test_who_waits_for_us_is_not_silent(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a slow disk would make duplicates: the message is stored, and its sender hears 421."""
    commit, late = office.reception.commit, Mock()
    monkeypatch.setattr(office.reception, "commit", late)

    async def talk() -> None:
        async with connected(office, Timeouts(idle=0.1)) as (session, reader, writer):
            writer.write(ENVELOPE + b"Subject: x\r\n\r\nhello\r\n.\r\n")
            await until(lambda: late.called)
            timers = {session._timeout_handle}
            while len(timers) < 3 and not session._closing:
                await asyncio.sleep(0.001)
                timers.add(session._timeout_handle)
            commit(*late.call_args.args, **late.call_args.kwargs)
            lines = (await reader.read(-1)).splitlines()
        assert [line[:4] for line in lines[-3:]] == [b"354 ", b"250 ", b"421 "]
        assert len(office.messages("ann")) == 1

    run(talk)


def test_a_message_under_way_is_finished(office: Office) -> None:
    async def talk() -> None:
        async with connected(office, Timeouts(idle=10, session=0.1)) as (session, reader, writer):
            writer.write(ENVELOPE + b"Subject: x\r\n")
            await until(lambda: session._draining)
            writer.write(b"\r\nhello\r\n.\r\n")
            lines = (await reader.read(-1)).splitlines()
        assert [line[:4] for line in lines[-3:]] == [b"354 ", b"250 ", b"421 "]
        assert len(office.messages("ann")) == 1

    run(talk)


def test_a_message_under_way_has_a_time_of_its_own(office: Office) -> None:
    async def talk() -> None:
        async with connected(office, Timeouts(idle=10, session=0.1, content=0.1)) as (_, reader, writer):
            writer.write(ENVELOPE)
            lines = (await reader.read(-1)).splitlines()
        assert lines[-1].startswith(b"421 4.4.2 Session has lasted too long")
        assert not office.messages("ann")

    run(talk)


def test_a_client_that_reads_nothing_is_cut_off(office: Office) -> None:
    async def talk() -> None:
        timeouts = Timeouts(idle=0.2, handshake=0.05)
        async with connected(office, timeouts) as (session, _, writer):
            while not session._paused:
                writer.write(b"HELP\r\n" * 1000)
                await asyncio.sleep(0)
            await until(lambda: session._closing)
            await office.connections.wait_empty()

    run(talk)


def test_a_client_that_reads_nothing_in_tls_is_cut_off(office: Office) -> None:
    """What is encrypted is not in the size that such a transport tells, and may wait below it for ever."""

    class Encrypted(Memory):
        aborted = False

        def close(self) -> None:
            self._closing = True

        def abort(self) -> None:
            self.aborted = True
            super().close()

    async def talk() -> None:
        session = office.session(secure=True, timeouts=Timeouts(idle=0.05, handshake=0.05))
        transport = Encrypted(session)
        await until(lambda: session._closing)
        await until(lambda: transport.aborted)

    run(talk)


@pytest.mark.parametrize("after", [b"", b"MAIL FROM:<a@b.test>\r\n"])
@pytest.mark.parametrize("end", [b"RSET", b"EHLO client.test"])
def test_a_message_given_up_while_the_server_stops(office: Office, end: bytes, after: bytes) -> None:
    async def talk() -> None:
        async with connected(office, Timeouts(idle=5)) as (session, reader, writer):
            writer.write(ENVELOPE.removesuffix(b"DATA\r\n"))
            await until(lambda: not session.dialogue.idle)
            session.drain()
            writer.write(end + b"\r\n" + after)
            lines = (await reader.read(-1)).splitlines()
        assert lines[-2].startswith(b"250 ")
        assert lines[-1].startswith(b"421 4.3.2 ")

    run(talk)
