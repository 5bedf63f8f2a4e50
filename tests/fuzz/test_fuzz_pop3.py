"""Mutated POP3 dialogues in memory, on mailboxes on disk.

Two sessions get the same octets, one as a whole and one cut anywhere: they say the same, to the octet. Each
leaves every message whole, in the mailbox or (after QUIT, and then only) in Trash, and the mailbox free.
What the answers mean is tested elsewhere (tests/pop3/test_pop3_model.py).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from conversation import Memory, at_random, whole
from fuzz.mutations import corpus, mutated
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_maildrop import LOOPBACK, MemoryAuthenticator, policy
from torture.figures import SCALE

from mailserver import maillog
from mailserver.mailbox.lock import Lock
from mailserver.mailbox.maildir import Maildir
from mailserver.pool import Pool
from mailserver.pop3 import LINE_LIMIT, Pop3
from mailserver.transport.driver import Connections, Driver, Timeouts

LOGIN = b"USER ann\r\nPASS open sesame\r\n"
WORDS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"RETR 1\r\n",
        b"DELE 2\r\n",
        b"QUIT\r\n",
        b"RSET\r\n",
        b"TOP 3 1\r\n",
    ),
    *(b"UIDL\r\n", b"LIST\r\n", b"AUTH PLAIN\r\n", LOGIN, b"x" * 300, b"x" * 13_000),
]
MAIL = [
    b"Subject: one\n\nHello\n",
    b"Subject: dots\n\n.\n..\n.dot\nend.\n",
    b"Subject: no end\n\nlast line",
    b"Subject: mixed\r\n\r\nCRLF\r\nLF\n\rCR\r",
    b"",
    b"no header at all",
    b"Subject: big\n\n" + b"0123456789" * 8 + b"\n." * 60_000,
]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("test", 2, 10)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    shm = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="mailserver-fuzz-", dir=shm if shm.is_dir() else None))
    yield root
    shutil.rmtree(root)


def converse(root: Path, pool: Pool, data: bytes, seed: int) -> tuple[bytes, set[str]]:
    """Everything the server says to `data`, and which messages are in Trash afterwards."""
    maildir = mailbox(root)
    unhandled: list[dict[str, object]] = []
    events: list[str] = []
    heard = bytearray()

    async def conversation() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        connections = Connections()
        driver = Driver(
            Pop3(MemoryAuthenticator(), lambda _: maildir, pool).session(LOOPBACK, policy()),
            LOOPBACK,
            pool=pool,
            timeouts=Timeouts(60, 60),
            line_limit=LINE_LIMIT,
            tls=None,
            connections=connections,
        )
        wire = Memory(driver, at_random(seed) if seed else whole)
        wire.send(data)
        while wire._incoming and not wire.is_closing():  # it was told to wait
            await asyncio.sleep(0.0005)
        driver.eof_received()
        async with asyncio.timeout(20):
            while block := await wire.receive():
                heard.extend(block)
            while len(connections):
                await asyncio.sleep(0.0005)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left behind"

    with mock.patch.object(maillog, "event", lambda name, /, **_: events.append(name)):
        asyncio.run(conversation())
    assert unhandled == []
    assert "session-failed" not in events
    lock = Lock(maildir.path)
    lock.acquire()
    lock.release()
    trash = {
        file.name.partition(",")[0]: file.read_bytes() for file in Path(maildir.path).glob(".Trash/*/*,*")
    }
    left = {
        file.name.partition(",")[0]: file.read_bytes()
        for place in ("new", "cur")
        for file in Path(maildir.path, place).iterdir()
    }
    assert sorted((left | trash).values()) == sorted(MAIL)
    assert not left.keys() & trash.keys()
    return bytes(heard), set(trash)


def mailbox(root: Path) -> Maildir:
    maildir = Maildir(str(root / "ann"))
    shutil.rmtree(maildir.path, ignore_errors=True)
    for name in ("tmp", "new", "cur"):
        Path(maildir.path, name).mkdir(parents=True)
    for number, text in enumerate(MAIL, 1):
        place = "cur" if number % 2 else "new"
        size = len(text)
        name = f"{1000 + number}.M1P1Q{number}.host,S={size}" + (":2,S" if number % 2 else "")
        Path(maildir.path, place, name).write_bytes(text)
    return maildir


@settings(max_examples=150 * SCALE, deadline=None)
@given(mutated(corpus("pop3"), WORDS), st.booleans(), st.integers(1, 1 << 30))
@example(b"RETR 7\r\nRETR 3\r\nDELE 1\r\nDELE 7\r\nQUIT\r\nNOOP\r\n", True, 3)
@example(b"TOP 7 100000\r\n" * 5, True, 5)
@example(b"x" * 30_000 + b"\r\nNOOP\r\n", True, 7)
def test_mutated_dialogues(root: Path, pool: Pool, data: bytes, login: bool, seed: int) -> None:
    data = (LOGIN if login else b"") + data
    said, trash = converse(root, pool, data, 0)
    assert converse(root, pool, data, seed) == (said, trash)
    assert said.startswith(b"+OK ")
    assert said.endswith(b"\r\n")
    if b"QUIT" not in data.upper():
        assert trash == set()
