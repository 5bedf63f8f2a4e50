"""The dialogue corpus of POP3, in memory: whole, byte by byte, and cut at random places."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conversation import Cut, Dialogue, Memory, at_random, byte_by_byte, play, read, unescape, whole
from memory_maildrop import MemoryAuthenticator, MemoryMailbox, memory_session

from mailserver.mta.authentication import Outcome
from mailserver.pool import Pool
from mailserver.pop3 import LINE_LIMIT
from mailserver.pop3.session import Session
from mailserver.transport.driver import Connections, Driver, Timeouts
from mailserver.transport.listener import Peer

DIALOGUES = read(Path(__file__).parent.parent / "dialogues" / "pop3")
CUTS: dict[str, Callable[[], Cut]] = {
    "whole": lambda: whole,
    "byte-by-byte": lambda: byte_by_byte,
    "at-random": lambda: at_random(1),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("test", 1, 10)
    yield pool
    pool.close()


def mailbox_of(dialogue: Dialogue) -> MemoryMailbox:
    mailbox = MemoryMailbox([unescape(text) for text in dialogue.all("message")])
    mailbox.stuck = set(dialogue.all("stuck"))
    mailbox.permanent = bool(dialogue.setting("permanent"))
    mailbox.trouble = bool(dialogue.setting("trouble"))
    if dialogue.setting("locked"):
        mailbox.open()
    return mailbox


def session_of(dialogue: Dialogue, mailbox: MemoryMailbox) -> Session:
    outcome = dialogue.setting("outcome")
    return memory_session(
        mailbox,
        Peer(dialogue.setting("peer", "127.0.0.1"), 40000, None, bool(dialogue.setting("secure"))),
        MemoryAuthenticator(Outcome[outcome] if outcome else None),
        starttls=bool(dialogue.setting("starttls")),
        allow_cleartext=bool(dialogue.setting("cleartext")),
        login_delay=float(dialogue.setting("login-delay", "0")),
    )


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: f"{dialogue.file}:{dialogue.name}")
def test_in_memory(dialogue: Dialogue, cut: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox = mailbox_of(dialogue)

    async def converse() -> None:
        session = session_of(dialogue, mailbox)
        connections = Connections()
        driver = Driver(
            session,
            session.authorization.peer,
            pool=pool,
            timeouts=Timeouts(600, 3600),
            line_limit=LINE_LIMIT,
            tls=lambda: None,  # type: ignore[arg-type,return-value]
            connections=connections,
        )
        begun = asyncio.Event()

        async def upgrade(transport: asyncio.Transport, *_: object) -> asyncio.Transport:
            """A handshake in memory: it is complete when the client has begun it too."""
            await begun.wait()
            begun.clear()
            return transport

        async def start_tls() -> None:
            begun.set()
            while begun.is_set():
                await asyncio.sleep(0)

        monkeypatch.setattr("mailserver.transport.tls.upgrade", upgrade)
        wire = Memory(driver, CUTS[cut]())
        async with asyncio.timeout(10):
            await play(dialogue, wire.send, wire.receive, start_tls)
            wire.close()
            await connections.drain(5)

    asyncio.run(converse())
    if not dialogue.setting("locked"):
        assert mailbox.holder is None, "the maildrop is still locked"
