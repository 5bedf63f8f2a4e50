"""Clients that send too slowly, too much or nonsense, and the one good client beside them.

Bounds are generous, for any machine; the figures are printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from torture.clients import Connection, Mail, Pop3, Smtp, whole_id
from torture.figures import report
from torture.running import LIMITS, Server

MEMORY = 50 << 20  # octets a flood may cost at most
SLOW = 300
PATIENCE = 6.0
RECIPIENTS = b"RCPT TO:<user0@example.test>\r\n"
START = b"EHLO x\r\nMAIL FROM:<a@b.test>\r\n" + RECIPIENTS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    more = LIMITS + 'idle_timeout = "3s"\n[pop3]\nidle_timeout = "3s"\n'
    # one worker: the hostile client and the good one beside it meet in the same loop
    with Server(tmp_path_factory.mktemp("hostile"), users=4, more=more, workers=1).running() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def at_first(server: Server) -> tuple[int, int]:
    """Octets in memory and descriptors before all floods, when everybody is there."""
    deadline = time.monotonic() + 10
    while not server.events("console-serving") and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.resident(), server.descriptors()


async def connect(port: int) -> Connection:
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
    try:
        await connection.line()
    except BaseException:
        await connection.close()
        raise
    return connection


async def flood(connection: Connection, block: bytes, times: int) -> bytes:
    """Send a block again and again, reading whatever comes, for PATIENCE seconds at most; what came last."""
    tail = b""

    async def read() -> None:
        nonlocal tail
        while data := await connection.reader.read(1 << 16):
            tail = (tail + data)[-400:]

    async def write() -> None:
        for _ in range(times):
            await connection.send(block)
        connection.writer.write_eof()

    tasks = [asyncio.create_task(read()), asyncio.create_task(write())]
    await asyncio.wait(tasks[:1], timeout=PATIENCE)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)  # the server may have closed meanwhile
    await connection.close()
    return tail


# ---- slow ones


async def drip(port: int, data: bytes, interval: float) -> float:
    """One octet at a time, until the server has enough of it: after how many seconds."""
    began = time.monotonic()
    async with await connect(port) as connection:
        closed = asyncio.create_task(connection.reader.read())
        try:
            for octet in data:
                if closed.done():
                    break
                connection.writer.write(bytes([octet]))
                await asyncio.wait([closed], timeout=interval)
            await asyncio.wait([closed], timeout=60)
        finally:
            closed.cancel()
            await asyncio.gather(closed, return_exceptions=True)
    return time.monotonic() - began


def test_dripping_clients_are_cut(server: Server) -> None:
    """An unfinished command line is no activity, however often one more octet of it comes."""

    async def torture() -> list[float]:
        return await asyncio.gather(
            drip(server.smtp, b"N" * 1000, 0.2),
            drip(server.smtp, b"NOOP " + b"x" * 1000, 0.2),
            drip(server.pop3, b"USER " + b"x" * 200, 0.2),
            drip(server.pop3, b"CAPA\r\nSTA", 0.2),
        )

    seconds = asyncio.run(torture())
    report("slowloris", cut_after=f"{max(seconds):.1f} s with an idle time-out of 3 s")
    assert max(seconds) < 8


def test_dripping_content_ends_with_the_session(server: Server) -> None:
    """Content may take its time (RFC 5321 §4.5.3.2.5: three minutes a block), but silence ends it."""

    async def torture() -> float:
        connection = await connect(server.smtp)
        await connection.send(START + b"DATA\r\nSubject: slow\r\n")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                await connection.reader.read()
        await connection.close()
        return time.monotonic() - began

    assert asyncio.run(torture()) < 8
    assert server.staged() == []


@contextlib.asynccontextmanager
async def slow_clients(server: Server, number: int) -> AsyncIterator[None]:
    """Connections in every state, each saying another octet now and then, each back when it was cut."""
    scripts = [
        (server.smtp, b"EHLO slow.test\r\nNOOP\r\n"),
        (server.smtp, START + b"DATA\r\n" + b"content " * 100),
        (server.pop3, b"USER user3\r\nNOO"),
        (server.pop3, b"CAPA\r\n" * 20),
    ]

    async def one(port: int, text: bytes) -> None:
        while True:
            with contextlib.suppress(OSError):
                await drip(port, text, 0.5)

    tasks = [asyncio.create_task(one(*scripts[n % len(scripts)])) for n in range(number)]
    try:
        await asyncio.sleep(1)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_good_client_beside_slow_ones(server: Server) -> None:
    async def torture() -> list[float]:
        took = []
        async with slow_clients(server, SLOW):
            for _ in range(10):
                began = time.monotonic()
                async with await Smtp.connect(server.smtp) as smtp:
                    await smtp.hello()
                    mail = Mail.make(2000)
                    assert (await smtp.deliver(mail, ["user1"]))[:3] == b"250"
                async with await Pop3.connect(server.pop3) as pop3:
                    assert (await pop3.login("user1")).startswith(b"+OK")
                    text = b"\r\n".join(await pop3.listing(b"RETR 1")) + b"\r\n"
                    assert whole_id(text) == mail.id
                    await pop3.command(b"DELE 1")
                    assert (await pop3.command(b"QUIT")).startswith(b"+OK")
                took.append(time.monotonic() - began)
        return took

    took = sorted(asyncio.run(torture()))
    report(
        f"good client beside {SLOW} slow ones",
        sent_and_read_in=f"{took[len(took) // 2]:.3f} s",
        longest=f"{took[-1]:.3f} s",
    )
    assert took[-1] < 5


def test_stalled_reader(server: Server) -> None:
    """Readers of a big message who stop reading cost a buffer each, and hold up nobody."""

    async def torture() -> tuple[int, float]:
        async with await Smtp.connect(server.smtp) as smtp:
            await smtp.hello()
            mail = Mail.make(16 << 20)
            assert (await smtp.deliver(mail, ["user2"]))[:3] == b"250"
        before = server.resident()
        async with await Pop3.connect(server.pop3) as stalled:
            await stalled.login("user2")
            await stalled.send(b"RETR 1\r\n" * 50)
            await asyncio.sleep(1)
            began = time.monotonic()
            async with await Pop3.connect(server.pop3) as other:
                assert (await other.login("user3")).startswith(b"+OK")
                assert (await other.command(b"NOOP")).startswith(b"+OK")
            took = time.monotonic() - began
            growth = server.resident() - before
            text = b"\r\n".join([line async for line in _message(stalled)]) + b"\r\n"
            assert whole_id(text) == mail.id, "the message is whole, whenever it is read"
        return growth, took

    growth, took = asyncio.run(torture())
    report("stalled reader of 16 MB", memory=f"+{growth >> 20} MB", other_client=f"{took:.3f} s")
    assert growth < 20 << 20
    assert took < 3


async def _message(client: Pop3) -> AsyncIterator[bytes]:
    assert (await client.line()).startswith(b"+OK")
    while (line := await client.line()) != b".":
        yield line.removeprefix(b".")


# ---- too much

SMTP_FLOODS: dict[str, tuple[bytes, bytes, int, bytes]] = {
    # name: what is said first, the block that follows so many times, and the answer at the end
    "endless command line": (b"", b"x" * 65536, 800, b""),
    "endless header": (START + b"DATA\r\n", b"X-Header: value\r\n" * 4096, 400, b""),
    "one header line": (START + b"DATA\r\n", b"x" * 65536, 800, b""),
    "a million empty lines": (START + b"DATA\r\n\r\n", b"\r\n" * 10_000, 100, b""),
    "commands": (b"", b"NOOP\r\n" * 5000, 20, b"250 2.0.0 OK"),
    "nonsense commands": (b"", b"\xff\x00\r\n" * 5000, 20, b""),
    "recipients": (START, RECIPIENTS * 500, 20, b"452 4.5.3"),
    "unknown recipients": (START, b"RCPT TO:<nobody@example.test>\r\n" * 500, 20, b""),
    "chunks of nothing": (START, b"BDAT 0\r\n" * 1000, 20, b"250 2.0.0"),
    "chunks of one octet": (START, b"BDAT 1\r\nx" * 1000, 20, b"250 2.0.0"),
    "bare line feeds": (START + b"DATA\r\n", b"\n" * 65536, 400, b""),
    "oversize message": (START + b"DATA\r\n\r\n", b"x" * 98 + b"\r\n" + b"y" * 63000 + b"\r\n", 900, b""),
}
POP3_FLOODS = {
    "endless line": (b"", b"x" * 65536, 800, b"-ERR"),
    "commands": (b"", b"CAPA\r\n" * 2000, 20, b"."),
    "nonsense commands": (b"", b"\xff\x00\r\n" * 5000, 20, b""),
    "listings": (b"USER user0\r\nPASS open sesame\r\n", b"UIDL\r\nLIST\r\nSTAT\r\n" * 1000, 20, b"+OK"),
}


async def _measured(server: Server, work: Callable[[], Awaitable[bytes]]) -> tuple[int, float, bytes]:
    """Growth of the peak of memory in octets, and the slowest of a good client's NOOPs in seconds."""
    server.forget_peak()
    before, gaps = server.resident(), [0.0]

    async def neighbour() -> None:
        async with await Pop3.connect(server.pop3) as good:
            assert (await good.login("user3")).startswith(b"+OK")
            while True:
                began = time.monotonic()
                assert (await good.command(b"NOOP")).startswith(b"+OK")
                gaps.append(time.monotonic() - began)
                await asyncio.sleep(0.02)

    good = asyncio.create_task(neighbour())
    await asyncio.sleep(0.1)
    answer = await work()
    await asyncio.sleep(0.05)
    good.cancel()
    await asyncio.gather(good, return_exceptions=True)
    assert good.cancelled(), good
    return server.resident("VmHWM") - before, max(gaps), answer


@pytest.mark.parametrize(
    ("kind", "name"), [("smtp", name) for name in SMTP_FLOODS] + [("pop3", name) for name in POP3_FLOODS]
)
def test_flood(server: Server, kind: str, name: str) -> None:
    begin, block, times, expected = (SMTP_FLOODS if kind == "smtp" else POP3_FLOODS)[name]

    async def torture() -> bytes:
        connection = await connect(server.smtp if kind == "smtp" else server.pop3)
        await connection.send(begin)
        return await flood(connection, block, times)

    growth, gap, answer = asyncio.run(_measured(server, torture))
    report(
        f"flood of {kind}: {name} ({len(block) * times >> 10} KB)",
        peak=f"{growth / (1 << 20):+.1f} MB",
        others_waited=f"{gap * 1000:.0f} ms",
    )
    assert growth < MEMORY
    assert gap < 0.75
    lines = answer.rstrip(b"\r\n").rpartition(b"\r\n")[2]
    if expected:
        assert lines.startswith(expected), answer
    assert server.staged() == []


def test_many_parts(server: Server) -> None:
    """20,000 MIME parts, each within the one before: nobody here takes them apart."""
    depth = 20_000
    head = b"MIME-Version: 1.0\r\n"
    for n in range(depth):
        head += b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n)

    async def torture() -> tuple[bytes, int]:
        async with await Smtp.connect(server.smtp) as smtp:
            await smtp.hello()
            await smtp.send(START + b"DATA\r\n")
            while (reply := await smtp.reply())[:3] != b"354":
                assert reply[:3] == b"250", reply
            await smtp.send(head + b".\r\n")
            reply = await smtp.reply()
        async with await Pop3.connect(server.pop3) as pop3:
            await pop3.login("user0")
            number = await pop3.count()
            text = b"\r\n".join(await pop3.listing(b"RETR %d" % number)) + b"\r\n"
            assert text.endswith(head)
            top = await pop3.listing(b"TOP %d 1" % number)
            assert len(top) < 20
            return reply, number

    server.forget_peak()
    before = server.resident()
    reply, _ = asyncio.run(torture())
    assert reply[:3] == b"250", reply
    growth = server.resident("VmHWM") - before
    report("nested parts (20,000)", peak=f"{growth / (1 << 20):+.1f} MB")
    assert growth < MEMORY


def test_all_is_given_back(server: Server, at_first: tuple[int, int]) -> None:
    """After all of the above, in this process: no descriptor is left open, and mail goes in and out."""

    memory, descriptors = at_first

    async def torture() -> None:
        async with await Smtp.connect(server.smtp) as smtp:
            await smtp.hello()
            assert (await smtp.deliver(Mail.make(100), ["user1"]))[:3] == b"250"
        deadline = time.monotonic() + 10
        while server.descriptors() > descriptors and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    asyncio.run(torture())
    growth = server.resident() - memory
    report(
        "after all floods",
        memory=f"{server.resident() >> 20} MB ({growth / (1 << 20):+.1f} MB)",
        descriptors=f"{server.descriptors()} ({server.descriptors() - descriptors:+})",
    )
    assert server.descriptors() <= descriptors
    assert growth < MEMORY
