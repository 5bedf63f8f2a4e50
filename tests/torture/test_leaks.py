"""Thousands of sessions, ended in every way: descriptors, memory and places under the limits come back."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from torture.clients import Closed, Connection, Mail, Pop3, Smtp
from torture.figures import report, times
from torture.running import Server

SESSIONS = times(3_000, 100_000)
WARM_UP = times(1_000, 10_000)
AT_ONCE = 24
PLACES = 60
GROWTH = 15 << 20  # octets; the goal is 5 MB over 100,000 sessions after 10,000, as `make torture` has them

LIMITS = f"[limits]\nconnections = {PLACES}\nconnections_per_address = {PLACES}\n"


async def smtp_quit(server: Server) -> None:
    async with await Smtp.connect(server.smtp) as client:
        await client.hello()
        assert (await client.command(b"QUIT"))[:3] == b"221"


async def smtp_message(server: Server) -> None:
    async with await Smtp.connect(server.smtp) as client:
        await client.hello()
        assert (await client.deliver(Mail.make(400), [server.users[0]]))[:3] == b"250"


async def smtp_drop_in_transaction(server: Server) -> None:
    async with await Smtp.connect(server.smtp) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<user0@example.test>\r\n")


async def smtp_drop_in_data(server: Server, octets: int = 2000) -> None:
    async with await Smtp.connect(server.smtp) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<user0@example.test>\r\nDATA\r\n")
        for _ in range(3):
            await client.reply()
        await client.send(b"line\r\n" * (octets // 6))


async def smtp_drop_after_spill(server: Server) -> None:
    await smtp_drop_in_data(server, 600_000)


async def smtp_reset_in_data(server: Server) -> None:
    client = await Smtp.connect(server.smtp)
    await client.hello()
    await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<user0@example.test>\r\nDATA\r\nSubject: x\r\n")
    client.reset()


async def smtp_gone_before_the_reply(server: Server) -> None:
    client = await Smtp.connect(server.smtp)
    await client.hello()
    await client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<user0@example.test>\r\nDATA\r\n")
    for _ in range(3):
        await client.reply()
    await client.send(Mail.make(100).stuffed)
    client.reset()


async def smtp_cut_for_errors(server: Server) -> None:
    async with await Smtp.connect(server.smtp) as client:
        assert (await client.command(b"BDAT x"))[:3] == b"501"
        with contextlib.suppress(Closed):
            await client.line()


async def pop3_quit(server: Server) -> None:
    async with await Pop3.connect(server.pop3) as client:
        await client.login(server.users[1])
        assert (await client.command(b"QUIT")).startswith(b"+OK")


async def pop3_drop_logged_in(server: Server) -> None:
    async with await Pop3.connect(server.pop3) as client:
        await client.login(server.users[2])


async def pop3_reset_in_answer(server: Server) -> None:
    client = await Pop3.connect(server.pop3)
    await client.login(server.users[3])
    await client.send(b"RETR 1\r\n" * 10)
    await client.line()
    client.reset()


async def pop3_drop_at_once(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.pop3)
    writer.close()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


TLS = _context()


async def tls_session(server: Server) -> None:
    streams = await asyncio.open_connection("127.0.0.1", server.pop3s, ssl=TLS)
    async with Pop3(*streams) as client:
        await client.line()
        await client.command(b"QUIT")


async def tls_drop(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.pop3s, ssl=TLS)
    await reader.readline()
    writer.transport.abort()


async def tls_cut_handshake(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.pop3s)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    await asyncio.sleep(0)
    writer.close()


async def tls_nonsense(server: Server) -> None:
    async with Connection(*await asyncio.open_connection("127.0.0.1", server.pop3s)) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.reader.read()


async def starttls(server: Server) -> None:
    async with await Smtp.connect(server.smtp) as client:
        await client.hello()
        assert (await client.command(b"STARTTLS"))[:3] == b"220"
        await client.writer.start_tls(TLS)
        await client.hello()
        assert (await client.command(b"QUIT"))[:3] == b"221"


async def starttls_cut(server: Server) -> None:
    client = await Smtp.connect(server.smtp)
    await client.hello()
    assert (await client.command(b"STARTTLS"))[:3] == b"220"
    await client.send(b"\x16\x03\x01\x02")
    client.reset()


async def starttls_nonsense(server: Server) -> None:
    async with await Smtp.connect(server.smtp) as client:
        await client.hello()
        assert (await client.command(b"STARTTLS"))[:3] == b"220"
        await client.send(b"MAIL FROM:<a@b.test>\r\n")
        with contextlib.suppress(ConnectionError):
            await client.reader.read()


async def stls(server: Server) -> None:
    async with await Pop3.connect(server.pop3) as client:
        assert (await client.command(b"STLS")).startswith(b"+OK")
        await client.writer.start_tls(TLS)
        assert (await client.command(b"CAPA")).startswith(b"+OK")


async def stls_dropped(server: Server) -> None:
    async with await Pop3.connect(server.pop3) as client:
        assert (await client.command(b"STLS")).startswith(b"+OK")


ENDINGS: list[Callable[[Server], Awaitable[None]]] = [
    smtp_quit,
    smtp_message,
    smtp_drop_in_transaction,
    smtp_drop_in_data,
    smtp_drop_after_spill,
    smtp_reset_in_data,
    smtp_gone_before_the_reply,
    smtp_cut_for_errors,
    pop3_quit,
    pop3_drop_logged_in,
    pop3_reset_in_answer,
    pop3_drop_at_once,
    tls_session,
    tls_drop,
    tls_cut_handshake,
    tls_nonsense,
    starttls,
    starttls_cut,
    starttls_nonsense,
    stls,
    stls_dropped,
]


async def run(server: Server, sessions: int) -> None:
    numbers = iter(range(sessions))

    async def worker() -> None:
        for number in numbers:
            async with asyncio.timeout(30):
                while True:
                    try:
                        await ENDINGS[number % len(ENDINGS)](server)
                        break
                    except Closed:  # others that have hung up still hold their places for a moment
                        await asyncio.sleep(0.01)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def settled(server: Server, descriptors: int) -> None:
    deadline = time.monotonic() + 15
    while server.descriptors() > descriptors and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def test_everything_is_given_back(tmp_path: Path) -> None:
    server = Server(tmp_path, users=4, more=LIMITS)

    async def torture() -> tuple[int, float]:
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            assert (await client.deliver(Mail.make(2 << 20), [server.users[3]]))[:3] == b"250"
        await run(server, WARM_UP)
        await asyncio.sleep(0.5)
        descriptors, memory, began = server.descriptors(), server.resident(), time.monotonic()
        await run(server, SESSIONS)
        took = time.monotonic() - began
        await settled(server, descriptors)
        assert server.descriptors() <= descriptors
        assert server.staged() == []
        await every_place_is_free()
        return server.resident() - memory, took

    async def every_place_is_free() -> None:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(PLACES):
                await held.enter_async_context(await Pop3.connect(server.pop3))
            streams = await asyncio.open_connection("127.0.0.1", server.smtp)
            refused = await held.enter_async_context(Connection(*streams))
            assert (await refused.line())[:3] == b"421"

    with server.running():
        growth, took = asyncio.run(torture())
    for ended in server.events("worker-ended"):
        assert " sessions=0 " in ended, f"sessions that are over are still in the books: {ended}"
    report(
        f"{SESSIONS} sessions of {len(ENDINGS)} endings",
        memory=f"{growth / (1 << 20):+.1f} MB",
        descriptors="+0",
        rate=f"{SESSIONS / took:.0f}/s",
    )
    assert growth < GROWTH
