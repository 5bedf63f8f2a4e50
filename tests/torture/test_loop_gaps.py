"""Heavy work of one client must not keep the event loop from the others.

Two looks at the same thing: how late the server's own heart beats (`watched_server`), and how long others
wait for the answer to NOOP, on SMTP and on POP3. The goals are 100 ms for any callback and 50 ms for NOOP's
99th percentile on a quiet machine; what is asserted has room for a busy one.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from torture.clients import Mail, Pop3, Smtp, whole_id
from torture.figures import SCALE, report
from torture.running import Server
from torture.watched_server import Heart

from mailserver.directory.passwords import hash_password

MESSAGES = 50_000
LOGINS = 60
BIG = 48 << 20
WORST = 2.0


class Watched:
    """A server, and what the others feel of the work of one."""

    def __init__(self, root: Path, **settings: object) -> None:
        heart = root / "heart"
        self.heart = Heart(heart)
        program = (str(Path(__file__).with_name("watched_server.py")), str(heart))
        # one worker: what is asked of it and what the others wait for meet in one loop
        self.server = Server(root, program=program, workers=1, **settings)  # type: ignore[arg-type]

    async def during(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, and report and judge what it did to the others."""
        waits: list[float] = []
        async with self._others(waits):
            self.heart.reset()
            waits.clear()
            began = time.monotonic()
            await work()
            took = time.monotonic() - began
            late = self.heart.worst
        cuts = statistics.quantiles(waits, n=100)
        report(
            name,
            took=f"{took:.2f} s",
            loop_held=f"{late * 1000:.0f} ms at most",
            NOOP_of_others=f"median {cuts[49] * 1000:.1f} ms p99 {cuts[98] * 1000:.0f} ms max {max(waits) * 1000:.0f} ms",
        )
        assert late < WORST
        assert max(waits) < WORST

    @contextlib.asynccontextmanager
    async def _others(self, waits: list[float]) -> AsyncIterator[None]:
        async with await Smtp.connect(self.server.smtp) as smtp, await Pop3.connect(self.server.pop3) as pop3:
            await smtp.hello()
            assert (await pop3.login(self.server.users[-1])).startswith(b"+OK")

            async def noop(client: Smtp | Pop3) -> None:
                while True:
                    began = time.monotonic()
                    answer = await client.command(b"NOOP")
                    waits.append(time.monotonic() - began)
                    assert answer[:3] in (b"250", b"+OK"), answer
                    await asyncio.sleep(0.01)

            tasks = [asyncio.create_task(noop(client)) for client in (smtp, pop3)]
            try:
                await asyncio.sleep(0.3)
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(outcome, asyncio.CancelledError), outcome


def fill(mailbox: Path, messages: int) -> None:
    """Many small messages, half of them seen, a tenth without sizes in their names."""
    for name in ("tmp", "new", "cur"):
        (mailbox / name).mkdir(parents=True)
    text = b"Subject: x\n\nbody\n"
    sizes = f",S={len(text)},W={len(text) + 3}"
    content = mailbox / "tmp" / "content"
    content.write_bytes(text)
    for number in range(messages):
        name = f"{1_700_000_000 + number}.M1P1Q{number}.host{sizes if number % 10 else ''}"
        target = mailbox / ("cur" if number % 2 else "new") / (f"{name}:2,S" if number % 2 else name)
        if number % 30_000 == 0 and number:  # links to one file have a limit
            content.unlink()
            content.write_bytes(text)
        target.hardlink_to(content)
    content.unlink()


@pytest.mark.timeout(180)
def test_big_mailbox(memory_path: Path) -> None:
    """In memory, so that it is made fast; what is measured is the server's processor time, not the disk."""
    watched = Watched(memory_path, users=2)
    server = watched.server
    user = server.users[0]
    fill(server.mailbox(user), MESSAGES)

    async def session() -> None:
        async with await Pop3.connect(server.pop3) as client:
            assert (await client.login(user)).startswith(b"+OK")
            assert await client.count() == MESSAGES
            assert len(await client.listing(b"UIDL")) == MESSAGES
            assert len(await client.listing(b"LIST")) == MESSAGES

    async def deletion() -> None:
        async with await Pop3.connect(server.pop3) as client:
            assert (await client.login(user)).startswith(b"+OK")
            for begin in range(1, 10_001, 500):
                await client.send(b"".join(b"DELE %d\r\n" % n for n in range(begin, begin + 500)))
                for _ in range(500):
                    assert (await client.line()).startswith(b"+OK")
            assert (await client.command(b"QUIT")).startswith(b"+OK")

    async def torture() -> None:
        await watched.during(f"first login to {MESSAGES:,} messages, STAT, UIDL, LIST", session)
        await watched.during("the same again", session)
        await watched.during("10,000 of them deleted", deletion)

    with server.running():
        asyncio.run(torture())
    assert len(list((server.mailbox(user) / ".Trash" / "cur").iterdir())) == 10_000


def test_many_logins(tmp_path: Path) -> None:
    """With real hashes; from one address, which has to wait for itself, not the others for it."""
    watched = Watched(tmp_path, users=LOGINS + 1, hash_text=hash_password("open sesame"))
    server = watched.server

    async def login(user: str) -> None:
        async with await Pop3.connect(server.pop3) as client:
            assert (await client.login(user)).startswith(b"+OK")

    async def logins() -> None:
        await asyncio.gather(*(login(user) for user in server.users[:LOGINS]))

    with server.running():
        asyncio.run(watched.during(f"{LOGINS} logins at once", logins))


def test_big_messages(tmp_path: Path) -> None:
    watched = Watched(tmp_path, users=2)
    server = watched.server
    user = server.users[0]
    mail = Mail.make(BIG)

    async def incoming() -> None:
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            assert (await client.deliver(mail, [user]))[:3] == b"250"

    async def outgoing() -> None:
        async with await Pop3.connect(server.pop3) as client:
            assert (await client.login(user)).startswith(b"+OK")
            await client.send(b"RETR 1\r\n")
            assert (await client.line()).startswith(b"+OK")
            text = bytearray()
            while not text.endswith(b"\r\n.\r\n"):
                text += await client.reader.read(1 << 20)
            assert whole_id(bytes(text[:-3]).replace(b"\r\n..", b"\r\n.")) == mail.id

    async def torture() -> None:
        before = server.resident()
        server.forget_peak()
        await watched.during(f"a message of {BIG >> 20} MB in", incoming)
        await watched.during(f"a message of {BIG >> 20} MB out", outgoing)
        growth = server.resident("VmHWM") - before
        report("memory for both", peak=f"+{growth / (1 << 20):.1f} MB")
        assert growth < 20 << 20

    with server.running():
        asyncio.run(torture())


def test_short_messages_in_numbers(tmp_path: Path) -> None:
    watched = Watched(tmp_path, users=10)
    server = watched.server

    async def sender(user: str) -> None:
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            for _ in range(40 * SCALE):
                assert (await client.deliver(Mail.make(2000), [user]))[:3] == b"250"

    async def senders() -> None:
        await asyncio.gather(*(sender(user) for user in server.users[:9]))

    with server.running():
        asyncio.run(watched.during(f"{9 * 40 * SCALE} messages by 9 sessions", senders))
